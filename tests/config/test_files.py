from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from search.config.files import load, overridden, parse
from search.errors import ConfigError
from tests.conftest import STUDIES

MINIMAL = '[study]\nname = "s"\n'


def _file(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_study_file_of_the_project_loads_and_comes_back(path: Path) -> None:
    config = load(path)
    assert parse(tomllib.loads(config.to_toml()), "again") == config


def test_overrides_take_toml_values_and_bare_words(tmp_path: Path) -> None:
    path = _file(tmp_path, MINIMAL)
    config = load(
        path, ["study.trials=7", "data.kind=digits", "space.head=[0, 8]", "study.target = 0.5"]
    )
    assert config.study.trials == 7
    assert config.data.kind == "digits"
    assert "head" in config.parameters
    assert config.study.target == 0.5
    assert overridden(config, ["study.trials=9"]).study.trials == 9


def test_limits_not_named_are_those_of_the_assignment(tmp_path: Path) -> None:
    config = load(_file(tmp_path, MINIMAL + "[limits]\nparameters = 50_000\n"))
    assert config.limits["parameters"] == 50_000
    assert config.limits["receptive_field"] == 44


@pytest.mark.parametrize("override", ["study.trials", "=3", "study.trials.x=3"])
def test_overrides_must_read_key_equals_value(override: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load(_file(tmp_path, MINIMAL + "trials = 3"), [override])


@pytest.mark.parametrize("word", ["0", "off", '"off"'])
def test_a_rule_that_is_switched_off_stays_off(tmp_path: Path, word: str) -> None:
    config = load(_file(tmp_path, MINIMAL), [f"limits.dilated={word}"])
    assert "dilated" not in config.rules.to_mapping()
    assert config.rules.to_mapping()["depthwise_separable"] == 1, "the others hold as ever"
    for again in (tomllib.loads(config.to_toml()), config.model_dump(mode="json", by_alias=True)):
        assert parse(again, "here") == config
    assert overridden(config, ["limits.dilated=2"]).rules.to_mapping()["dilated"] == 2
