"""One trial in a worker: what becomes of it where it goes wrong."""

from __future__ import annotations

import errno
import gc
import logging
import math
from collections.abc import Callable, Iterable, Sequence

import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState

from search.errors import MachineError
from search.proposals.proposer import ExhaustedError
from search.storage.claims import ClaimLostError
from search.storage.database import StudyStorage
from search.storage.internals import trial_id
from search.storage.trials import Attributes, architecture_of, write
from search.training.modules import Modules
from search.workers.objective import Interrupted
from search.workers.watch import Watch

log = logging.getLogger(__name__)

Values = float | tuple[float, ...]
Train = Callable[[Trial], Values]
Callback = Callable[[optuna.Study, FrozenTrial], None]


class TimeLimitError(RuntimeError):
    """A trial took longer than `study.minutes`."""


class Unfinished(BaseException):
    """Leaves `Study.optimize`, which lets pass what is no `Exception`, without a verdict."""

    def __init__(self, trial: Trial, cause: Exception) -> None:
        super().__init__(str(cause))
        self.trial_id = trial_id(trial)
        self.claim = Attributes.of(trial).worker
        self.cause = cause


class Guarded:
    """The objective as Optuna calls it: failures get their reason, interruptions no verdict.

    `trial` is the last one, `failure` its error, None where it ended well.
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
                values = _numbers(self._train(trial))
                self._watch.failures = 0
                return values
        except optuna.TrialPruned:
            self._watch.failures = 0
            raise
        except Exception as error:
            raise self._verdict(trial, error) from error
        finally:
            self._watch.end()

    def _verdict(self, trial: Trial, error: Exception) -> Exception | Unfinished:
        if isinstance(error, Interrupted) and self._watch.overdue:
            error = TimeLimitError(str(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error = MachineError(f"{error.filename or 'disk'}: {error.strerror}")
        if isinstance(error, Interrupted | MachineError | ClaimLostError):
            return Unfinished(trial, error)
        self.failure = error
        reason = in_one_line(error)
        self._watch.failures += 1
        self._watch.failure = reason
        if not isinstance(error, ExhaustedError):  # which is no fault
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


def _numbers(values: Values) -> Values:
    # A cost may be infinite: that of a target which the trial has not reached.
    if any(map(math.isnan, values if isinstance(values, tuple) else (values,))):
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
