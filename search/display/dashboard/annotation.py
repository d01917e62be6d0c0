"""A trial's note and pictures, which it gets when it ends."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.trial import TrialState

from search.config.sections import StudyConfig
from search.data.datasets import Dataset
from search.display.dashboard.internals import note_entries
from search.display.dashboard.notes import trial_note
from search.display.dashboard.pictures import Picture, trial_pictures
from search.storage.checkpoints import attach
from search.storage.claims import ClaimLostError
from search.storage.internals import storage_of, study_id, trial_id
from search.storage.studies import study_storage
from search.workers.objective import Finished

log = logging.getLogger(__name__)

# Optuna's own dashboard searches all notes for each trial that has one: 0.4 s for the first view
# at 1,000 notes, 115 s at 10,000.  Later trials get one when they are among the best.
NOTED = 1000
NOTED_LEADERS = 10


def annotate(
    finished: Finished, config: StudyConfig, dataset: Dataset, store: FileSystemArtifactStore
) -> None:
    """Gives a trial that ran to its end its note and its pictures, which nobody draws yet."""
    trial, network = finished.trial, finished.candidate.architecture
    history = [vars(record) for record in finished.training.history]
    pictures = trial_pictures(
        trial.number,
        network,
        history,
        dataset.validation,
        finished.evaluation.logits,
        dataset.classes,
        target=config.study.target,
        limit=config.rules.to_mapping().get("receptive_field"),
        metric=config.study.metric,
    )
    made: list[str] = []
    try:
        with study_storage(trial.study).together():
            kept = _attached(trial, pictures, store, made)
            if trial.number < NOTED or _leads(trial, history[-1][config.study.metric]):
                note = trial_note(network, config.rules, kept)
                write_note(trial.study, trial_id(trial), note)
    except ClaimLostError:
        for artifact in made:  # of which the database knows nothing
            store.remove(artifact)
        raise


def _attached(
    trial: optuna.Trial,
    pictures: Sequence[Picture],
    store: FileSystemArtifactStore,
    made: list[str],
) -> dict[str, str]:
    """Where the dashboard has the pictures, by their names; adds to `made` those that the trial
    did not have: an earlier worker of it may have died after it attached its own."""
    place, kept = f"/artifacts/{study_id(trial.study)}/{trial_id(trial)}", {}
    known = {each.filename: each.artifact_id for each in get_all_artifact_meta(trial)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for picture in pictures:
                path = Path(folder) / f"{picture.name}.png"
                path.write_bytes(picture.to_bytes())
                artifact = known.get(path.name)
                if artifact is None:
                    made.append(artifact := attach(trial, path, store))
                else:
                    with path.open("rb") as file:
                        store.write(artifact, file)
                kept[picture.name] = f"{place}/{artifact}"
    except OSError as error:
        # What was trained for hours is not lost over a picture.
        log.warning("trial %d stays without pictures: %s", trial.number, error)
    return kept


def write_note(study: optuna.Study, key: int, body: str) -> None:
    """Gives the trial of that `key` its note."""
    for name, value in note_entries(key, body).items():
        storage_of(study).set_study_system_attr(study_id(study), name, value)


def _leads(trial: optuna.Trial, accuracy: float) -> bool:
    done = trial.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    better = [other for other in done if other.values[0] > accuracy]
    return len(better) < NOTED_LEADERS
