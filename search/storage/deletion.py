"""Deletes a study: its rows, and those files that are its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial

from search.errors import MachineError
from search.storage.checkpoints import checkpoints
from search.storage.places import Place
from search.storage.studies import study_storage


def delete_study(study: optuna.Study, place: Place) -> bool:
    """Deletes the study with its files, and a database of SQLite's that is empty then.

    Studies of one name in several databases share a directory.  It goes with the last of them:
    answers whether nothing stayed there.
    """
    storage, runs = study_storage(study), place.run_directory(study.study_name)
    own = [*_files(study, runs)]
    optuna.delete_study(study_name=study.study_name, storage=storage)
    for path in own:
        path.unlink(missing_ok=True)
    others = any(runs.glob("*.checkpoint")) or any(runs.glob("artifacts/*"))
    if not others:
        shutil.rmtree(runs, ignore_errors=True)
    if place.file and not storage.names():
        for end in ("", "-wal", "-shm", ".lock"):
            place.file.with_name(place.file.name + end).unlink(missing_ok=True)
    return not others


def _files(study: optuna.Study, runs: Path) -> Iterator[Path]:
    """The checkpoints and artifacts that the database knows of; none where it does not read."""
    try:
        trials = study.get_trials(deepcopy=False)
    except MachineError:
        return
    owners: list[optuna.Study | FrozenTrial] = [study, *trials]
    for owner in owners:
        for artifact in get_all_artifact_meta(owner, storage=study_storage(study)):
            yield runs / "artifacts" / artifact.artifact_id
    for trial in trials:
        yield from checkpoints(runs, trial)
