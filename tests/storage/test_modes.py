from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest

from search.storage.checkpoints import (
    artifact_store,
    attach,
    save_checkpoint,
)
from search.storage.places import Place
from search.workers import supervisor
from tests.conftest import open_to_others
from tests.processes import created


@pytest.mark.usefixtures("open_umask")
def test_what_a_study_makes_is_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = "sqlite:///studies/toy.db"
    study, runs = created(url), Place.of(url).run_directory("toy")
    study.set_user_attr("log", "there")  # while connected: SQLite's log and its index
    assert {f"toy.db{end}" for end in ("", "-wal", "-shm", ".lock")} <= {
        path.name for path in Path("studies").iterdir()
    }
    save_checkpoint(runs / "a.checkpoint", {"x": 1})
    (runs / "curve.txt").touch(0o600)
    attach(study, runs / "curve.txt", artifact_store(runs))
    command = [sys.executable, "-c", "print('done')"]
    assert supervisor.launch(supervisor.Workers(command, url, 1, runs / "logs")).reason == "done"
    assert len([path for path in runs.rglob("*") if path.is_file()]) == 4
    assert not open_to_others(tmp_path)


@pytest.mark.usefixtures("open_umask")
def test_what_was_there_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    sqlite3.connect(shared / "toy.db").close()
    (shared / "toy.db.lock").touch()
    created(f"sqlite:///{shared}/toy.db")
    kept = {shared / name for name in ("toy.db", "toy.db.lock")}
    assert kept < set(open_to_others(tmp_path))
