"""What the storage uses of Optuna that Optuna does not promise; nothing else here does.

An upgrade that moves one of these fails in `tests/storage/test_internals.py`, which holds
their signatures.  `pyproject.toml` allows only releases on which that test has passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna import Study, Trial
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session as transaction
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "METHODS",
    "FrozenStudy",
    "backend",
    "models",
    "storage_of",
    "study_id",
    "transaction",
    "trial_id",
    "trials_at_start",
]

_STORAGE = {
    "_create_new_trial": "gives a new trial to the cache, and is asked again; it calls the next",
    "_get_prepared_new_trial": "runs under the lock on the study, where the budget is counted",
    "_get_stale_trial_ids": "is asked before each trial, when lost trials return to the queue",
    "_get_trials": "builds every trial from five loaded relations: ours reads rows",
    "_get_best_trial_id": "is asked again when the connection drops",
    "_set_trial_param": "is called by the cache above: parameters are written together",
    "_set_trial_param_without_commit": "looks for another process's distribution, once",
    "_set_trial_attr_without_commit": "writes an attribute in a transaction of ours",
}
METHODS: Mapping[tuple[type, str], str] = {
    **{(RDBStorage, name): reason for name, reason in _STORAGE.items()},
    (Study, "_get_trials"): "is what samplers ask, and what they are not to learn from is left out",
}
"""Methods of Optuna's that are overridden or called, and why."""


def study_id(study: Study) -> int:
    """A study's key in the database; storages ask for it, studies do not tell it."""
    return study._study_id


def trial_id(trial: Trial | FrozenTrial) -> int:
    """A trial's key in the database, which is not its number."""
    return trial._trial_id


def storage_of(study: Study) -> BaseStorage:
    """The storage that a study reads and writes through: a cache over a relational one."""
    return study._storage


def trials_at_start(study: Study) -> list[FrozenTrial]:
    """All trials as this process saw them when its present trial began, without asking again."""
    return study._get_trials(deepcopy=False, use_cache=True)


def backend(study: Study) -> BaseStorage:
    """The storage beneath that cache."""
    storage: BaseStorage = getattr(study._storage, "_backend", study._storage)
    return storage
