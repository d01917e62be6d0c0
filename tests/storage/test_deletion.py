from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.errors import MachineError
from search.storage.checkpoints import artifact_store, attach, checkpoint_path, save_checkpoint
from search.storage.deletion import delete_study
from search.storage.places import Place
from search.storage.studies import load_study, study_names, study_storage
from tests.processes import ask, created


def test_studies_of_one_name_in_two_databases_lose_what_is_their_own(tmp_path: Path) -> None:
    places = [Place.of(f"sqlite:///{tmp_path / name}.db") for name in ("here", "there")]
    runs = places[0].run_directory("toy")
    assert runs == places[1].run_directory("toy")
    store, saved = artifact_store(runs), []
    for place in places:
        study = created(place.secret)
        save_checkpoint(path := checkpoint_path(runs, trial := ask(study)), {})
        ids = [attach(owner, path, store) for owner in (trial, study)]
        saved.append({path, *(runs / "artifacts" / id_ for id_ in ids)})
    (runs / "logs").mkdir()

    assert not delete_study(load_study("toy", places[0]), places[0])
    assert {path for path in runs.rglob("*") if path.is_file()} == saved[1]
    assert (runs / "logs").exists(), "nobody can tell whose it is"
    assert not [*tmp_path.glob("here.db*")]

    assert delete_study(load_study("toy", places[1]), places[1])
    assert not runs.exists()


@pytest.mark.parametrize("file", ["trial-000000-0a1b2c3d.checkpoint", "artifacts/0a1b2c3d"])
def test_what_a_study_of_that_name_elsewhere_has_stays(tmp_path: Path, file: str) -> None:
    """As one on a server, whose files nobody can tell from here."""
    place = Place.of(f"sqlite:///{tmp_path}/study.db")
    study, theirs = created(place.secret), place.run_directory("toy") / file
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    assert not delete_study(study, place)
    assert theirs.exists()


def test_another_study_in_the_database_stays_with_it(tmp_path: Path) -> None:
    place = Place.of(f"sqlite:///{tmp_path}/study.db")
    study, other = created(place.secret), created(place.secret, name="other")
    other.tell(ask(other), 0.5)
    delete_study(study, place)
    assert study_names(place) == ["other"]
    assert load_study("other", place).best_value == 0.5


def test_a_study_that_cannot_be_deleted_keeps_its_files(tmp_path: Path) -> None:
    place = Place.of(f"sqlite:///{tmp_path}/study.db")
    study = created(place.secret)
    save_checkpoint(path := checkpoint_path(place.run_directory("toy"), ask(study)), {})
    storage = study_storage(study)

    def fail(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("DELETE"):
            raise sqlite3.OperationalError("disk I/O error")

    sa.event.listen(storage.engine, "before_cursor_execute", fail)
    with pytest.raises(MachineError, match="disk I/O error"), storage.errors():
        delete_study(study, place)
    assert path.exists()
    assert len(study.trials) == 1


def test_the_logs_of_a_study_that_has_nothing_else_stay(tmp_path: Path) -> None:
    here, there = (Place.of(f"sqlite:///{tmp_path / name}.db") for name in ("here", "there"))
    for place in (here, there):
        created(place.secret)
    (tmp_path / "foreign.db").write_text("no database")
    (tmp_path / "empty.db").touch()
    log = here.run_directory("toy") / "logs" / "worker-0.log"
    log.parent.mkdir(parents=True)
    log.touch()
    assert not delete_study(load_study("toy", here), here)
    assert log.exists()
    assert delete_study(load_study("toy", there), there)
    assert not log.exists()
