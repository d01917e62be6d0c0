from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from run_study import run
from search import Study
from search.commands.studies import _options, _token, _told, next_commands
from search.commands.typed import typed
from search.config.files import load, overridden
from search.display.dashboard.server import TOKEN
from search.errors import MachineError
from search.presets import preset
from search.storage.studies import find_study, load_study, study_names, study_storage
from search.storage.summary import summarize
from tests.conftest import STUDIES
from tests.synthetic_study import build, config


def test_the_token_comes_from_the_environment_or_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUDY_TOKEN", raising=False)
    assert _token(asked=False) is None
    made = {str(_token(asked=True)) for _ in range(9)}
    assert len(made) == 9
    assert all(TOKEN.fullmatch(token) for token in made)
    monkeypatch.setenv("STUDY_TOKEN", "0123456789abcdef")
    assert _token(asked=False) == _token(asked=True) == "0123456789abcdef"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    (tmp_path / "studies").mkdir()
    return tmp_path


def test_what_comes_next_depends_on_how_it_ended(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["c1c4-search"])
    study = build(config(), "sqlite:///studies/demo.db", trials=3, running=0)
    summary, source = summarize(study), ["launch", "s.toml"]
    elsewhere = partial(typed, storage="sqlite:///studies/demo.db", modules=["mine.py:network"])
    (exported,) = next_commands(summary, 0, source, elsewhere, [])
    options = "--module mine.py:network --storage sqlite:///studies/demo.db"
    assert exported == f"c1c4-search export demo {options}"
    spent = summarize(study, overridden(summary.config, ["study.trials=3"]))
    missed = next_commands(spent, 1, source, typed, [])
    assert missed[-1] == "c1c4-search launch s.toml --trials 6"
    changed = ["study.trials=3", "study.seed=1"]
    stopped = next_commands(summary, 130, source, typed, changed)
    assert stopped == ["c1c4-search launch s.toml --set study.trials=3 --set study.seed=1"]
    missed = next_commands(spent, 1, source, typed, changed)
    assert missed[-1] == "c1c4-search launch s.toml --set study.seed=1 --trials 6"
    (_, failing) = next_commands(summary, 1, source, typed, ["study.seed=1"])
    assert failing == "c1c4-search launch s.toml --set study.seed=1", "trials failed in a row"
    crew = _options(workers=2, device="cpu", per_gpu=1, ray=None)
    (stopped,) = next_commands(summary, 130, [*source, *crew], typed, changed)
    assert " launch s.toml --workers 2 --device cpu --per-gpu 1 --set study.trials=3" in stopped
    assert _options(workers=1, device="auto", per_gpu=None, ray=None) == []
    overtime = summarize(study, overridden(summary.config, ["study.hours=0.25"]))
    overtime = replace(overtime, spent=1_000.0)  # more than a quarter of an hour
    further = next_commands(overtime, 1, source, typed, ["study.hours=0.25", "study.seed=1"])[-1]
    assert further == "c1c4-search launch s.toml --set study.seed=1 --hours 0.556"
    # The trials were spent first, and while finalists were trained the hours, too.
    both = replace(overtime, config=overridden(overtime.config, ["study.trials=3"]))
    further = next_commands(both, 1, source, typed, ["study.trials=3", "study.hours=0.25"])[-1]
    assert further == "c1c4-search launch s.toml --trials 6 --hours 0.556"
    small = summarize(study, overridden(summary.config, ["study.trials=1"]))
    assert next_commands(small, 1, source, typed, [])[-1].endswith("--trials 6")


def test_no_export_comes_next_where_there_are_no_test_images(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = build(config(), "sqlite:///studies/demo.db", trials=3, running=0)
    folder = overridden(config(), ["data.kind=imagefolder", f"data.root={place}"])
    for name in ("a", "b"):
        (place / "train" / name).mkdir(parents=True)
    summary = summarize(study, folder)
    source = ["launch", "s.toml"]
    assert next_commands(summary, 0, source, typed, []) == []
    assert not any("export" in line for line in next_commands(summary, 1, source, typed, []))
    (place / "train").rename(place / "test")
    assert not any("export" in line for line in next_commands(summary, 1, source, typed, []))
    shutil.copytree(place / "test", place / "train")
    assert any("export" in line for line in next_commands(summary, 1, source, typed, []))


@pytest.mark.parametrize(
    ("given", "kept", "told"),
    [
        (None, "", None),
        (None, "sqlite:///mine.db", "sqlite:///mine.db"),
        ("sqlite:///other.db", "sqlite:///mine.db", "sqlite:///other.db"),
    ],
)
def test_what_comes_next_finds_the_study_that_its_file_keeps_elsewhere(
    place: Path, given: str | None, kept: str, told: str | None
) -> None:
    text = preset("quickstart")
    where = f'[study]\nstorage = "{kept}"' if kept else "[study]"
    (place / "s.toml").write_text(text.replace("[study]", where))
    assert _told(Study(Path("s.toml"), storage=given), given) == told


def test_studies_are_listed_and_deleted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0
    assert "init" in capsys.readouterr().err
    build(config(), "sqlite:///studies/demo.db", trials=3, running=0)
    assert run(["list"]) == 0
    assert "demo" in capsys.readouterr().out
    assert run(["delete", "demo"]) == 1, "nobody there to say yes"
    assert "--yes" in capsys.readouterr().err
    assert run(["delete", "studies/demo.db", "--yes"]) == 2
    assert "is a database; name a study in it" in capsys.readouterr().err
    assert study_names("sqlite:///studies/demo.db") == ["demo"]
    (place / "mine.toml").write_text('[study]\nname = "demo"\n')
    assert run(["delete", "mine.toml"]) == 1, "a study file names its study"
    assert "Delete study" not in capsys.readouterr().out
    assert run(["delete", "demo", "--yes"]) == 0
    assert not list((place / "studies").rglob("*demo*"))
    assert run(["delete", "demo", "--yes"]) == 2


def test_sample_and_launch_say_what_the_device_lacks(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "s.toml"]) == 0
    told = ("limits.arena_bytes=200_000", 'space.activation=["relu", "gelu"]')
    settings = [word for key in told for word in ("--set", key)]
    launch = ["launch", "s.toml", "--device", "cpu", "--per-gpu", "1"]  # refused before it starts
    for command in (["sample", "s.toml", "-n", "1"], launch):
        capsys.readouterr()
        run([*command, *settings])
        assert "Micro has no gelu: networks with it are rejected" in capsys.readouterr().err


def test_a_database_with_a_password_is_listed(
    postgresql: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    postgresql.psql("DROP DATABASE IF EXISTS fresh WITH (FORCE); CREATE DATABASE fresh;")
    server = sa.make_url(postgresql.get_uri(database="fresh"))
    url = server.set(password="secret").render_as_string(hide_password=False)
    build(config(), url, trials=1, running=0)
    monkeypatch.setenv("STUDY_STORAGE", url)
    assert run(["list"]) == 0
    shown = capsys.readouterr()
    assert "demo" in shown.out
    assert "secret" not in shown.out + shown.err


def test_a_bad_override_of_a_study_is_told_and_no_file_taken_for_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(config("quickstart"), "sqlite:///studies/quickstart.db", trials=1, running=0)
    assert run(["init"]) == 0
    assert run(["sample", "quickstart", "--set", "study.trials=x"]) == 2
    assert "study quickstart: study.trials" in capsys.readouterr().err


def test_a_running_study_is_not_deleted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(config(), "sqlite:///studies/demo.db", trials=3, running=1)
    assert run(["delete", "demo", "--yes"]) == 2
    assert "1 trial running" in capsys.readouterr().err
    assert load_study("demo", "sqlite:///studies/demo.db")


def test_a_study_that_does_not_read_is_deleted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "sqlite:///studies/demo.db"
    study_storage(build(config(), url, trials=3, running=0)).engine.dispose()
    for broken in ("'{'", "'null'", "'{\"study\": 1}'", "NULL"):
        with closing(sqlite3.connect("studies/demo.db")) as database:
            database.execute(f"UPDATE study_user_attributes SET value_json = {broken}")
            database.commit()
        assert run(["status", "demo"]) == 2
        assert "study demo" in capsys.readouterr().err
    with closing(sqlite3.connect("studies/demo.db")) as database:
        database.execute("UPDATE trial_user_attributes SET value_json = '{' WHERE trial_id = 2")
        database.commit()
    with pytest.raises(MachineError, match="trial 1: its attribute architecture is no JSON"):
        find_study("demo", url).get_trials()
    assert run(["delete", "demo", "--yes"]) == 0
    assert not list((place / "studies").rglob("*demo*"))


def test_what_is_no_database_of_studies_hides_none(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(config(), "sqlite:///studies/demo.db", trials=3, running=0)
    (place / "studies" / "a.db").write_text("no database\n")
    assert run(["list"]) == 0
    shown = capsys.readouterr()
    assert "demo" in shown.out
    assert "a.db is not a SQLite database" in shown.err
    assert run(["list", "--storage", "sqlite:///studies/a.db"]) == 2
    assert run(["list", "--storage", "sqlite:///studies/none.db"]) == 0
    assert "no study yet in sqlite:///studies/none.db" in capsys.readouterr().err
    assert run(["delete", "demo", "--yes"]) == 0
    (place / "studies" / "b.db").write_text("neither\n")
    assert run(["list"]) == 0
    shown = capsys.readouterr()
    assert "a.db is not a SQLite database" in shown.err
    assert "no study yet" not in shown.err, "nobody knows"


@pytest.mark.parametrize("change", ["training.epochs=2", "space.C1.depth=0"])
def test_export_refuses_what_would_change_nothing(
    place: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build(config(), "sqlite:///studies/demo.db", trials=1, running=0)
    assert run(["export", "demo", "--set", change]) == 2
    assert "a trial keeps its network and its recipe" in capsys.readouterr().err
    as_made = ["training.epochs=16", "data.kind=imagefolder", "data.root=nowhere"]
    with pytest.raises(MachineError, match="nowhere"):  # later than the refusal
        Study("demo", storage="sqlite:///studies/demo.db", overrides=as_made).export()


def test_a_first_study_file_that_the_disk_does_not_take_is_named_and_not_left(
    place: Path,
) -> None:
    code = (
        "import resource, sys, run_study; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        "sys.exit(run_study.run(['init', 'mine.toml']))"
    )
    environment = os.environ | {"PYTHONPATH": str(STUDIES.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (3, b"run_study: mine.toml: File too large\n")
    assert not (place / "mine.toml").exists()
    assert run(["init", "mine.toml"]) == 0


@pytest.mark.parametrize(
    ("file", "name"),
    [("a/two.layers.toml", "two.layers"), ("Größe.toml", "eva6"), ("my study.toml", "eva6")],
)
def test_a_study_is_called_as_its_file_where_it_may(place: Path, file: str, name: str) -> None:
    assert run(["init", file, "--preset", "eva6"]) == 0
    assert load(Path(file)).study.name == name


def test_a_study_is_named_where_a_file_is_taken(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init"]) == 0
    assert capsys.readouterr().out.strip() == "studies/quickstart.toml"
    assert run(["init"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["sample", "quickstart", "-n", "20"]) == 0
    assert run(["init", "--preset", "nothing"]) == 2
    (place / "a.json").write_text("{}")
    assert run(["launch", "a.json"]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in ("`check` takes it", "`train`", "`launch --from`"))


def test_the_version_and_a_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("c1c4-search 0.")
    assert run(["-h"]) == 0
    assert "launch" in capsys.readouterr().out
