"""One worker: runs trials, then finalists, until target, budget or signal.

Workers know of each other through the study's storage alone, so one on another machine
is no different.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import optuna
from optuna.trial import TrialState

from search.config.sections import StudyConfig
from search.errors import ConfigError, MachineError
from search.proposals.proposer import ExhaustedError, InfeasibleError
from search.storage.claims import BudgetSpentError
from search.storage.database import StudyStorage
from search.storage.finalists import Standing, certainty, queued, standing, template
from search.storage.internals import study_id, trial_id
from search.storage.studies import study_storage, validation_images
from search.storage.trials import Attributes, is_finalist
from search.training.modules import NONE, Modules
from search.workers.guarded import Callback, Guarded, Train, Unfinished
from search.workers.supervisor import Ending, handled
from search.workers.watch import Watch

log = logging.getLogger(__name__)

Stop = Callable[[], str | None]

PAUSE = 1.0
"""Seconds until a worker looks again whether another that still runs has failed or died: then its
place is free."""


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
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failures are told by `Guarded`
    storage = study_storage(study)
    storage.trials, storage.finals, storage.only = config.study.trials, False, only
    storage.modules = modules.keys
    watch = Watch(study, config)
    with handled(watch.on_signal), storage.errors(), watch.watchdog():
        guarded = Guarded(make_objective(watch), watch, storage, callbacks, modules)
        if only is not None:
            return _one(study, config, guarded, watch, only)
        return _work(study, config, guarded, watch)


def _one(
    study: optuna.Study, config: StudyConfig, guarded: Guarded, watch: Watch, number: int
) -> Ending:
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
            return Ending(
                f"trial {number}: {config.study.measure} {100 * trial.values[0]:.2f} %", 0
            )
        if trial.state.is_finished():
            if trial.state == TrialState.PRUNED:
                return Ending(f"trial {number} was pruned", 1)
            failure = Attributes.of(trial).failure or "no reason recorded"
            return Ending(f"trial {number} failed: {failure}", 1)
        guarded.require_code([trial])
        if not _run_one(study, guarded):
            time.sleep(PAUSE)
    return ending


def _work(study: optuna.Study, config: StudyConfig, guarded: Guarded, watch: Watch) -> Ending:
    storage = study_storage(study)
    while (ending := watch.ending(fresh=True)) is None:
        if watch.failures >= config.study.failures:
            last = f"the last: {watch.failure}"
            return Ending(f"{watch.failures} trials in a row failed; {last}", 1)
        try:
            started = _run_one(study, guarded)
        except ExhaustedError as error:
            ending = watch.over(str(error))
            break
        if not started:
            if _trained(storage, study) >= config.study.trials:
                ending = watch.spent(config.study.trials, "trial")
                break
            time.sleep(PAUSE)
    return ending if ending.code > 1 else _finals(study, config, guarded, watch, ending)


def _finals(
    study: optuna.Study, config: StudyConfig, guarded: Guarded, watch: Watch, searched: Ending
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
            time.sleep(PAUSE)
    return ending


def _outcome(now: Standing) -> list[str]:
    number, leader = len(now.finalists), now.leader
    if leader is not None and number > 1:
        surely = certainty(leader.probability or 0.0)
        best = f"trial {leader.trial} is the best of the finalists ({number})"
        return [f"{best} with {surely} probability"]
    return [f"all finalists ({number}) are lost"] if number and not now.racing else []


def _run_one(study: optuna.Study, guarded: Guarded) -> bool:
    """Runs one trial; False where none may start now."""
    guarded.trial = None
    try:
        # One at a time: heartbeats need `optimize`, an exact budget a look before each.
        study.optimize(guarded, n_trials=1, catch=(Exception,), callbacks=guarded.callbacks)
    except BudgetSpentError:
        return False
    except Unfinished as unfinished:
        _give_back(study_storage(study), unfinished)
    except (ValueError, AssertionError):
        # So ends Optuna where the trial that it wants to tell waits again, or was told by another.
        if guarded.trial is None or not study_storage(study).has_lost(trial_id(guarded.trial)):
            raise
    if isinstance(guarded.failure, ConfigError | InfeasibleError):
        raise guarded.failure
    return True


def _trained(storage: StudyStorage, study: optuna.Study) -> int:
    counts = storage.count(study_id(study))
    return counts.get(TrialState.COMPLETE, 0) + counts.get(TrialState.PRUNED, 0)


def _give_back(storage: StudyStorage, unfinished: Unfinished) -> None:
    """Queues the trial again; if the storage is what failed, whoever looks next will."""
    try:
        with storage.errors():
            storage.requeue(unfinished.trial_id, unfinished.claim)
    except MachineError as error:
        log.warning("the trial could not be queued again: %s", error)
    if isinstance(unfinished.cause, MachineError):
        raise unfinished.cause
