"""One worker: budgets, signals, and what becomes of a trial that goes wrong.

Workers know of each other through the study's storage alone, so one on another machine
is no different.
"""

from __future__ import annotations

import errno
import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState

from search.config.sections import StudyConfig
from search.errors import ConfigError, MachineError
from search.proposals.proposer import InfeasibleError
from search.storage.claims import BudgetSpentError, ClaimLostError
from search.storage.database import StudyStorage
from search.storage.finalists import Standing, certainty, queued, standing, template
from search.storage.internals import study_id, trial_id
from search.storage.studies import study_storage, validation_images
from search.storage.trials import Attributes, architecture_of, is_finalist, write
from search.training.modules import NONE, Modules
from search.workers.objective import Interrupted
from search.workers.supervisor import PULSE, SUPERVISOR, Ending, handled

log = logging.getLogger(__name__)

Values = float | tuple[float, ...]
Stop = Callable[[], str | None]
Train = Callable[[Trial], Values]
Callback = Callable[[optuna.Study, FrozenTrial], None]

POLL = 2.0
"""Seconds between two looks at what other workers have done."""
LENIENCE = 30.0
"""Seconds after its time limit that a trial has to stop by itself."""


class TimeLimitError(RuntimeError):
    """A trial took longer than `study.minutes`."""


class _Unfinished(BaseException):
    """Leaves `Study.optimize`, which lets pass what is no `Exception`, without a verdict."""

    def __init__(self, trial: Trial, cause: Exception) -> None:
        super().__init__(str(cause))
        self.trial_id = trial_id(trial)
        self.claim = Attributes.of(trial).worker
        self.cause = cause


# --- when to stop ----------------------------------------------------------------------


class Watch:
    """Says why to stop, or None; cheap enough to be asked after every step.

    What only the storage knows (target met, hours spent, trial taken over) is looked up
    every `POLL` seconds.
    """

    def __init__(self, study: optuna.Study, config: StudyConfig) -> None:
        self._study = study
        self._storage = study_storage(study)
        self._section = config.study
        self._supervisor = int(os.environ.get(SUPERVISOR, 0))
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
            return self.spent(f"{self._section.hours:g} hours")
        return None

    def search_is_over(self) -> None:
        """Target and hours have done their work; finalists have a budget of their own."""
        self._searched = True
        self._ending = None

    def _owns(self, trial: Trial) -> bool:
        return self._storage.owns(trial_id(trial), Attributes.of(trial).worker)

    def target_met(self) -> bool:
        """Whether any trial of the study has reached the target."""
        if self._section.target is None:
            return False  # and nothing asked of the storage
        return self._section.met(self._storage.best_value(study_id(self._study)))

    def spent(self, budget: str) -> Ending:
        """The ending of a study whose budget is used up."""
        if self.target_met():
            return Ending(f"target {self._section.target:g} met", 0)
        short = self._section.target is not None
        return Ending(f"the budget of {budget} is spent", 1 if short else 0)

    def begin(self, trial: Trial) -> None:
        """The time of `trial` runs from now."""
        self._trial = trial
        if self._section.minutes is not None:
            self._deadline = time.monotonic() + 60 * self._section.minutes

    def end(self) -> None:
        """The running trial is over; it may have met the target, so look before the next."""
        self._trial = self._deadline = None
        self._lost = False
        self._looked = -POLL

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
            write(trial, Attributes(failure=f"hung beyond its {self._section.minutes:g} minutes"))
            self._storage.set_trial_state_values(trial_id(trial), TrialState.FAIL)
            sys.stderr.flush()
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


# --- one trial -------------------------------------------------------------------------


class _Guarded:
    """The objective as Optuna calls it: failures get their reason, interruptions no verdict.

    `trial` is the last one, `failure` its error, None where it ended well; `failures` counts those
    in a row.
    """

    def __init__(
        self,
        objective: Train,
        watch: Watch,
        storage: StudyStorage,
        callbacks: Sequence[Callback],
        modules: Modules,
    ) -> None:
        self.failure: Exception | None = None
        self.failures = 0
        self.trial: Trial | None = None
        self._objective = objective
        self._watch = watch
        self._storage = storage
        self.callbacks = list(callbacks)
        self._modules = modules

    def require_code(self, trials: Iterable[FrozenTrial]) -> None:
        """Accepts `trials` of which this process may run all that wait.

        Raises:
            MachineError: one waits for code that this process was not told to run.
        """
        for trial in trials:
            if trial.state == TrialState.WAITING and Attributes.of(trial).module:
                self._modules.require(architecture_of(trial))

    def __call__(self, trial: Trial) -> Values:
        self.failure = None
        self.trial = trial
        self._watch.begin(trial)
        try:
            with self._storage.errors():
                values = _finite(self._train(trial))
                self.failures = 0
                return values
        except optuna.TrialPruned:
            self.failures = 0
            raise
        except Exception as error:
            raise self._verdict(trial, error) from error
        finally:
            self._watch.end()

    def _verdict(self, trial: Trial, error: Exception) -> Exception | _Unfinished:
        if isinstance(error, Interrupted) and self._watch.overdue:
            error = TimeLimitError(str(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error = MachineError(f"{error.filename or 'disk'}: {error.strerror}")
        if isinstance(error, Interrupted | MachineError | ClaimLostError):
            return _Unfinished(trial, error)
        self.failure = error
        self.failures += 1
        reason = in_one_line(error)
        log.warning("trial %d failed: %s", trial.number, reason)
        write(trial, Attributes(failure=reason))
        return error

    def _train(self, trial: Trial) -> Values:
        """Trains; where memory runs out, once more with half the batch."""
        try:
            return self._objective(trial)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            reason = in_one_line(error)
        # Out of the handler, whose traceback kept the batch's memory alive.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if Attributes.of(trial).batch_divisor:
            raise MemoryError(f"even with half the batch: {reason}")
        log.warning("trial %d: %s; tried again with half the batch", trial.number, reason)
        write(trial, Attributes(batch_divisor=2))
        return self._train(trial)


def _finite(values: Values) -> Values:
    if not all(map(math.isfinite, values if isinstance(values, tuple) else (values,))):
        raise ValueError(f"the objective is {values}")
    return values


def in_one_line(error: Exception) -> str:
    """The error in one line, as it stands in the trial's `failure`."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch has a class of its own for accelerators only.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


# --- one worker ------------------------------------------------------------------------


def work(
    study: optuna.Study,
    config: StudyConfig,
    make_objective: Callable[[Stop], Train],
    only: int | None = None,
    callbacks: Sequence[Callback] = (),
    modules: Modules = NONE,
) -> Ending:
    """Runs trials in this process until target, budget or signal; call it from the main thread.

    `make_objective` gets the function that the objective must ask for a reason to stop.  Where
    `only` is the number of a trial, that one is run and no other.  `callbacks` are told of each
    trial of this process that ended.  `modules` are what it may run of others' code.

    Raises:
        InfeasibleError: the sampler finds no candidate that keeps the rules.
        MachineError: storage, disk or device failed, and the running trial is queued again; or
            what is left to train is code that is not among `modules`.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are told by `_Guarded`
    storage = study_storage(study)
    storage.trials, storage.finals, storage.only = config.study.trials, False, only
    storage.modules = modules.keys
    watch = Watch(study, config)
    with handled(watch.on_signal), storage.errors(), watch.watchdog():
        guarded = _Guarded(make_objective(watch), watch, storage, callbacks, modules)
        if only is not None:
            return _one(study, guarded, watch, only)
        return _work(study, config, guarded, watch)


def _one(study: optuna.Study, guarded: _Guarded, watch: Watch, number: int) -> Ending:
    """Runs the trial of that number, or waits for the worker that has it.

    Raises:
        ConfigError: there is none.
    """
    if number >= len(study.get_trials(deepcopy=False)):
        raise ConfigError(f"study {study.study_name} has no trial {number}")
    watch.search_is_over()
    while (ending := watch.ending(fresh=True)) is None:
        trial = study.get_trials(deepcopy=False)[number]
        if trial.state == TrialState.COMPLETE:
            return Ending(f"trial {number}: accuracy {100 * trial.values[0]:.2f} %", 0)
        if trial.state.is_finished():
            reason = Attributes.of(trial).failure or trial.state.name.lower()
            return Ending(f"trial {number} failed: {reason}", 1)
        guarded.require_code([trial])
        if not _run_one(study, guarded):
            _await_others(study_storage(study), study)
    return ending


def _work(study: optuna.Study, config: StudyConfig, guarded: _Guarded, watch: Watch) -> Ending:
    storage = study_storage(study)
    while (ending := watch.ending(fresh=True)) is None:
        if not _run_one(study, guarded):
            if _trained(storage, study) >= config.study.trials:
                ending = watch.spent(f"{config.study.trials} trials")
                break
            _await_others(storage, study)
        elif guarded.failure and guarded.failures >= config.study.failures:
            last = in_one_line(guarded.failure)
            return Ending(f"{guarded.failures} trials in a row failed; the last: {last}", 1)
    return ending if ending.code > 1 else _finals(study, config, guarded, watch, ending)


def _finals(
    study: optuna.Study, config: StudyConfig, guarded: _Guarded, watch: Watch, searched: Ending
) -> Ending:
    """Trains the finalists of a search that ended so, beside other workers."""
    storage = study_storage(study)
    storage.finals = True
    watch.search_is_over()
    while (ending := watch.ending(fresh=True)) is None:
        trials = study.get_trials(deepcopy=False)
        now = standing(trials, config, validation_images(study))
        if now.decided or not (now.pending or now.next is not None):
            reasons = [searched.reason, *_outcome(now)]
            return Ending("; ".join(reasons), searched.code)
        if now.next is not None and not queued(trials):
            storage.queue_finalist(study_id(study), template(trials, now))
        guarded.require_code(filter(is_finalist, trials))
        if not _run_one(study, guarded):
            _await_others(storage, study)
    return ending


def _outcome(now: Standing) -> list[str]:
    number, leader = len(now.finalists), now.leader
    if leader is not None and number > 1:
        surely = certainty(leader.probability or 0.0)
        return [f"trial {leader.trial} is the best of the finalists ({number}) with {surely}"]
    return [f"all finalists ({number}) are lost"] if number and not now.racing else []


def _run_one(study: optuna.Study, guarded: _Guarded) -> bool:
    """Runs one trial; False where none may start now."""
    guarded.trial = None
    try:
        # One at a time: heartbeats need `optimize`, an exact budget a look before each.
        study.optimize(guarded, n_trials=1, catch=(Exception,), callbacks=guarded.callbacks)
    except BudgetSpentError:
        return False
    except _Unfinished as unfinished:
        _give_back(study_storage(study), unfinished)
    except (ValueError, AssertionError):
        # So ends Optuna where the trial that it wants to tell waits again, or was told by another.
        if guarded.trial is None or not study_storage(study).has_lost(trial_id(guarded.trial)):
            raise
    if isinstance(guarded.failure, ConfigError | InfeasibleError):
        raise guarded.failure
    return True


def _await_others(storage: StudyStorage, study: optuna.Study) -> None:
    """Others still run; if one fails or dies, its place is free."""
    time.sleep(1)
    storage.recover(study_id(study))


def _trained(storage: StudyStorage, study: optuna.Study) -> int:
    counts = storage.count(study_id(study))
    return counts.get(TrialState.COMPLETE, 0) + counts.get(TrialState.PRUNED, 0)


def _give_back(storage: StudyStorage, unfinished: _Unfinished) -> None:
    """Queues the trial again; if the storage is what failed, whoever looks next will."""
    try:
        with storage.errors():
            storage.requeue(unfinished.trial_id, unfinished.claim)
    except MachineError as error:
        log.warning("the trial could not be queued again: %s", error)
    if isinstance(unfinished.cause, MachineError):
        raise unfinished.cause
