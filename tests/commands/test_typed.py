from __future__ import annotations

import shlex
import sys

import pytest

from run_study import run
from search.commands.typed import typed


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
def test_a_command_goes_on_with_the_same_study(
    storage: str | None, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["some where/run_study.py"])
    changes = ["data.root=my images", "space.head=[0, 8]"]
    line = typed("launch", "s.toml", storage=storage, overrides=changes)
    expected = ["python", "some where/run_study.py", "launch", "s.toml"]
    expected += ["--set", changes[0], "--set", changes[1]]
    assert shlex.split(line) == expected + (["--storage", str(storage)] if shown else [])
    assert "secret" not in line


@pytest.mark.parametrize(
    ("called", "program", "said"),
    [
        ("run_study.py", "python run_study.py", "run_study"),
        ("/usr/bin/c1c4-search", "c1c4-search", "c1c4-search"),
        ("c1c4-search.exe", "c1c4-search", "c1c4-search"),
        ("-m", "python -m run_study", "run_study"),
    ],
)
def test_the_program_is_named_as_it_was_called(
    called: str,
    program: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    assert typed("status", "s") == f"{program} status s"
    assert run(["check", "nothing.json"]) == 2
    assert capsys.readouterr().err.startswith(f"{said}: nothing.json: ")
