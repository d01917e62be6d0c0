"""When a worker stops: budgets, the target, signals, and a trial that hangs."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import optuna
from optuna.trial import Trial, TrialState

from search.config.sections import StudyConfig
from search.storage.finalists import searched
from search.storage.internals import study_id, trial_id
from search.storage.refuted import borne_out
from search.storage.studies import study_storage
from search.storage.trials import Attributes, write
from search.workers.supervisor import PULSE, SUPERVISOR, Ending

log = logging.getLogger(__name__)

POLL = 2.0
"""Seconds between two looks at what other workers have done."""
LENIENCE = 30.0
"""Seconds after its time limit that a trial has to stop by itself."""
FAILURES = "STUDY_FAILURES"
"""The environment variable that tells a worker which starts again how many trials in a row have
failed, the last of which hung."""


class Watch:
    """Says why to stop, or None; cheap enough to be asked after every step.

    What only the storage knows (target met, hours spent, trial taken over) is looked up
    every `POLL` seconds.  `failures` counts the trials of this worker that failed in a row, before
    it started again too, and `failure` says how the last one did.
    """

    def __init__(self, study: optuna.Study, config: StudyConfig) -> None:
        self._study = study
        self._storage = study_storage(study)
        self._section = config.study
        self._supervisor = int(os.environ.get(SUPERVISOR, 0))
        self.failures = int(os.environ.pop(FAILURES, 0))
        self.failure = self._hung
        self._signal: signal.Signals | None = None
        self._ending: Ending | None = None
        self._looked = -POLL
        self._searched = False
        self._trial: Trial | None = None
        self._lost = False
        self._deadline: float | None = None

    def __call__(self) -> str | None:
        """A reason to interrupt the running trial."""
        if self.overdue:
            return f"time limit of {self._section.minutes:g} minutes"
        ending = self.ending()
        if ending is not None:
            return ending.reason
        return "another worker has taken this trial over" if self._lost else None

    @property
    def overdue(self) -> bool:
        """Whether the running trial has used up its minutes."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def ending(self, *, fresh: bool = False) -> Ending | None:
        """Why this worker must end, None while it must not; `fresh` asks the storage now."""
        if self._signal is not None:
            return Ending(f"stopped by {self._signal.name}", 128 + self._signal)
        stale = fresh or time.monotonic() - self._looked >= POLL
        if self._ending is None and stale:
            self._ending = self._look()
            self._looked = time.monotonic()
        return self._ending

    def _look(self) -> Ending | None:
        self._lost = self._trial is not None and not self._owns(self._trial)
        if self._supervisor and os.getppid() != self._supervisor:
            return Ending("launch has ended", 128 + signal.SIGHUP)
        hours = self._storage.advance_clock(study_id(self._study)) / 3600
        if self._searched:
            return None
        if not self._section.goes_on and self.target_met():
            return Ending(f"target {self._section.target:g} met", 0)
        if self._section.hours is not None and hours >= self._section.hours:
            return self.spent(self._section.hours, "hour")
        return None

    def search_is_over(self) -> None:
        """Target and hours have done their work; finalists have a budget of their own."""
        self._searched = True
        self._ending = None

    def _owns(self, trial: Trial) -> bool:
        return self._storage.owns(trial_id(trial), Attributes.of(trial).worker)

    def target_met(self) -> bool:
        """Whether any trial of the study that is borne out has reached the target."""
        if self._section.target is None:
            return False  # and nothing asked of the storage
        if not self._section.met(self._storage.best_value(study_id(self._study))):
            return False
        believed = searched(borne_out(self._study.get_trials(deepcopy=False)))
        completed = (trial for trial in believed if trial.state == TrialState.COMPLETE)
        return any(self._section.met(trial.values[0]) for trial in completed)

    def spent(self, budget: float, noun: str) -> Ending:
        """The ending of a study whose budget, so many trials or hours, is used up."""
        named = f"{budget:.12g} {noun}{'' if budget == 1 else 's'}"
        return self.over(f"the budget of {named} is spent")

    def over(self, reason: str) -> Ending:
        """The ending of a study that trains no further candidate, for that reason."""
        if self.target_met():
            return Ending(f"target {self._section.target:g} met", 0)
        return Ending(reason, 0 if self._section.target is None else 1)

    @property
    def _hung(self) -> str:
        return f"hung beyond its {self._section.minutes or 0:g} minutes"

    def begin(self, trial: Trial) -> None:
        """The time of `trial` runs from now."""
        self._trial = trial
        if self._section.minutes is not None:
            self._deadline = time.monotonic() + 60 * self._section.minutes

    def end(self) -> None:
        """The running trial is over."""
        self._trial = self._deadline = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """A signal ends the worker after the running step; a second SIGINT ends it at once."""
        if self._signal is not None and number == signal.SIGINT:
            # The trial stays marked as running; whoever looks next finds this process gone
            # and queues it again from its last checkpoint.
            os._exit(128 + number)
        self._signal = self._signal or signal.Signals(number)

    @contextmanager
    def watchdog(self) -> Iterator[None]:
        """Replaces this process by a fresh one when a trial outlives its limit by `LENIENCE`.

        For a trial that does not return to Python's main thread, nothing less would do.
        """
        done = threading.Event()
        thread = threading.Thread(target=self._bite, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _bite(self, done: threading.Event) -> None:
        while not done.wait(PULSE):
            trial, deadline = self._trial, self._deadline
            if trial is None or deadline is None or time.monotonic() < deadline + LENIENCE:
                continue
            log.warning("trial %d hangs: failed, and this worker starts again", trial.number)
            try:
                write(trial, Attributes(failure=self._hung))
                if self._storage.set_trial_state_values(trial_id(trial), TrialState.FAIL):
                    self.failures += 1
            except Exception as error:  # whoever has the trial or finds this worker silent goes on
                log.warning("trial %d could not be failed: %s", trial.number, error)
            sys.stderr.flush()
            os.environ[FAILURES] = str(self.failures)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
