from __future__ import annotations

from pathlib import Path

from search.storage.checkpoints import artifact_store, attach, checkpoint_path, save_checkpoint
from search.storage.deletion import delete_study
from search.storage.places import Place
from search.storage.studies import load_study
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
