from __future__ import annotations

from pathlib import Path

import pytest

import search
from search import Study
from search.errors import ConfigError
from search.proposals.proposer import InfeasibleError
from tests.conftest import STUDIES


@pytest.mark.parametrize("name", search.__all__)
def test_what_is_public_is_there(name: str) -> None:
    assert getattr(search, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_else"):
        _ = search.nothing_else


def test_nothing_is_made_before_create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    study = Study(STUDIES / "quickstart.toml", overrides=["study.name=mine"])
    assert study.estimate().accepted > 0
    assert not list(tmp_path.glob("studies/*"))
    study.create()
    again = Study("mine", overrides=["study.trials=3"])
    assert again.config.study.trials == 3
    assert again.config.space == study.config.space
    assert again.load().trials == []


def test_what_is_infeasible_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = ["limits.parameters=100", "study.proposals=3000"]
    with pytest.raises(InfeasibleError, match=r"3,000 proposals.*parameters rejects 100\.0%"):
        Study(STUDIES / "quickstart.toml", overrides=changes).create()
    assert not list(tmp_path.iterdir())


def test_a_study_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="nothing"):
        Study("nothing")
