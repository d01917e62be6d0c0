from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from search.commands import _again, _next, _token
from search.display.dashboard.server import TOKEN


def test_the_token_comes_from_the_environment_or_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUDY_TOKEN", raising=False)
    assert _token(asked=False) is None
    made = {str(_token(asked=True)) for _ in range(9)}
    assert len(made) == 9
    assert all(TOKEN.fullmatch(token) for token in made)
    monkeypatch.setenv("STUDY_TOKEN", "0123456789abcdef")
    assert _token(asked=False) == _token(asked=True) == "0123456789abcdef"


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        (None, False),
        ("sqlite:///s.db", True),
        ("postgresql+psycopg://me@host/db", True),
        ("postgresql://me@host/db?sslmode=require", True),
        ("postgresql://me@host/db?options=secret", False),
        ("postgresql+psycopg://me:secret@host/db", False),
    ],
)
def test_the_next_command_goes_on_with_the_same_study(storage: str | None, shown: bool) -> None:
    changes = ["data.root=my images", "space.head=[0, 8]"]
    typed = _next("s", 130, _again(Path("s.toml"), changes, storage))
    expected = ["launch", "s.toml", "--set", changes[0], "--set", changes[1]]
    assert shlex.split(typed) == expected + (["--storage", str(storage)] if shown else [])
    assert "secret" not in typed


def test_a_study_that_met_its_target_is_exported_next() -> None:
    assert _next("s", 0, ["launch", "s.toml"]) == "export s"
    assert _next("s", 1, ["launch", "s.toml"]) == "status s"
