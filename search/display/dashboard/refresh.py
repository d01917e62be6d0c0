"""optuna-dashboard on a study: what it shows beyond Optuna's own views, and its server.

`annotate` gives a trial its note and pictures when it ends, `Refresher` keeps the study's
note and plots up to date, `open_server` answers for both through the guard.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from optuna_dashboard import save_note, save_plotly_graph_object

from search.config.sections import StudyConfig
from search.data.datasets import Dataset
from search.display.dashboard import plots
from search.display.dashboard.internals import note_entries
from search.display.dashboard.notes import study_note, trial_note
from search.display.dashboard.pictures import Picture, trial_pictures
from search.display.rhythm import Rhythm
from search.storage.checkpoints import attach
from search.storage.internals import storage_of, study_id, trial_id
from search.storage.studies import study_storage
from search.storage.summary import Summary
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
    )
    kept = _attached(trial, pictures, store)
    if trial.number < NOTED or _leads(trial, history[-1][config.study.metric]):
        note = trial_note(network, config.rules, kept)
        write_note(trial.study, trial_id(trial), note)


def _attached(
    trial: optuna.Trial, pictures: Sequence[Picture], store: FileSystemArtifactStore
) -> dict[str, str]:
    """Where the dashboard has the pictures, by their names."""
    place, kept = f"/artifacts/{study_id(trial.study)}/{trial_id(trial)}", {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for picture in pictures:
                path = Path(folder) / f"{picture.name}.png"
                path.write_bytes(picture.to_bytes())
                kept[picture.name] = f"{place}/{attach(trial, path, store)}"
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


def refresh(study: optuna.Study, summary: Summary) -> None:
    """Writes the study's note and plots as of `summary`."""
    drawn = (
        ("accuracy-over-parameters", plots.accuracy_over(summary, "parameters", "parameters")),
        ("accuracy-over-MACs", plots.accuracy_over(summary, "macs", "MACs")),
        ("accuracy-over-RF", plots.accuracy_over(summary, "receptive_field", "receptive field")),
        ("rejections-by-rule", plots.rejections(summary)),
    )
    with study_storage(study).together():
        save_note(study, study_note(summary, study_id(study), datetime.now()))
        for name, figure in drawn:
            save_plotly_graph_object(study, figure, graph_object_id=name)


class Refresher:
    """Refreshes a study when trials have ended since, in a twentieth of the time at most.

    A note is written in pieces, so two writers at once could mix theirs: a refresh by
    anybody in the last `pause` seconds is enough for all.
    """

    pause = 5.0
    share = 20.0

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._shown: Counter[str] | None = None
        self._rhythm = Rhythm(self.pause, self.share)

    def tick(self, summary: Summary, *, at_once: bool = False) -> None:
        """Call it as often as a new summary is at hand; `at_once` ignores all pauses.

        While the storage does not answer it does nothing.
        """
        with contextlib.suppress(StorageInternalError):
            state = Counter(trial.state for trial in summary.trials)
            late = state != self._shown and self._rhythm.due
            if not at_once and (not late or self._fresh()):
                return
            with self._rhythm.turn():
                self._study.set_user_attr("refreshed", time.time())
                refresh(self._study, summary)
            self._shown = state

    def _fresh(self) -> bool:
        return time.time() - float(self._study.user_attrs.get("refreshed", 0.0)) < self.pause
