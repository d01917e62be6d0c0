"""optuna-dashboard on a study: what it shows beyond Optuna's own views, and its server.

`Refresher` keeps the study's note and plots up to date; a trial gets its own when it ends
(`annotation.py`), and `open_server` answers for both through the guard.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from datetime import datetime

import optuna
from optuna.exceptions import StorageInternalError
from optuna_dashboard import save_note, save_plotly_graph_object

from search.display.dashboard import plots
from search.display.dashboard.browsed import Unnoted
from search.display.dashboard.notes import study_note
from search.display.rhythm import Rhythm
from search.storage.internals import study_id
from search.storage.studies import study_storage
from search.storage.summary import Summary


def refresh(study: optuna.Study, summary: Summary) -> None:
    """Writes the study's note and plots as of `summary`."""
    drawn = (
        ("accuracy-over-parameters", plots.accuracy_over(summary, "parameters", "parameters")),
        ("accuracy-over-MACs", plots.accuracy_over(summary, "macs", "MACs")),
        ("accuracy-over-RF", plots.accuracy_over(summary, "receptive_field", "receptive field")),
        ("rejections-by-rule", plots.rejections(summary)),
    )
    unnoted = optuna.load_study(study_name=study.study_name, storage=Unnoted(study))
    with study_storage(study).together():
        save_note(unnoted, study_note(summary, study_id(study), datetime.now()))
        for name, figure in drawn:
            save_plotly_graph_object(unnoted, figure, graph_object_id=name)


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
            state = Counter(trial.state for trial in (*summary.trials, *summary.finals))
            late = state != self._shown and self._rhythm.due
            if not at_once and (not late or self._fresh()):
                return
            with self._rhythm.turn():
                self._study.set_user_attr("refreshed", time.time())
                refresh(self._study, summary)
            self._shown = state

    def _fresh(self) -> bool:
        return time.time() - float(self._study.user_attrs.get("refreshed", 0.0)) < self.pause
