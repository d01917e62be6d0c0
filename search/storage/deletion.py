"""Deletes a study: its rows, and those files that are its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial

from search.errors import ConfigError, MachineError
from search.storage.checkpoints import checkpoints
from search.storage.opening import opened
from search.storage.places import Place
from search.storage.studies import study_names, study_storage


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
    others = any((*runs.glob("*.checkpoint"), *runs.glob("artifacts/*"), *_namesakes(study, place)))
    if not others:
        shutil.rmtree(runs, ignore_errors=True)
    if place.file:
        with opened(place):  # nobody makes a study in it meanwhile, or waits to read it
            if not storage.names():
                for end in ("", "-wal", "-shm", ".lock"):
                    place.file.with_name(place.file.name + end).unlink(missing_ok=True)
    return not others


def _namesakes(study: optuna.Study, place: Place) -> Iterator[Path]:
    """The databases beside this one with a study of its name, which may have logs alone."""
    for file in place.run_directory(study.study_name).parent.parent.glob("*.db"):
        with suppress(ConfigError, MachineError):  # of another program, or broken
            if file != place.file and study.study_name in study_names(f"sqlite:///{file}"):
                yield file


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
