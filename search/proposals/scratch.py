"""A study in memory in which a sampler of Optuna's makes its proposals."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.proposals.failures import as_worst
from search.storage.given import learnable
from search.storage.internals import storage_of, study_id, trial_id
from search.storage.refuted import BorneOut
from search.storage.trials import Attributes, has_diverged


class Taken:
    """The candidates that a study's other trials hold; of failed trials only those that diverged,
    which would do so again.

    Finished trials are read once, so the cost does not grow with the study.
    """

    def __init__(self) -> None:
        self._study: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._finished: set[str] = set()
        self._running: dict[int, str] = {}
        self._open: set[int] = set()
        self._next = 0

    def update(self, study: Study, current: FrozenTrial) -> None:
        if study_id(study) != self._study:
            self._study = study_id(study)
            self._reset()
        # From the storage, since a pruner may show the sampler a part of the trials only.
        trials = storage_of(study).get_all_trials(study_id(study), deepcopy=False)
        self._open.update(range(self._next, len(trials)))
        self._next = len(trials)
        self._running = {}
        for number in sorted(self._open):
            self._read(trials[number], current)

    def _read(self, trial: FrozenTrial, current: FrozenTrial) -> None:
        held = Attributes.of(trial).candidate
        if trial.state.is_finished():
            self._open.discard(trial.number)
            if held and (trial.state is not TrialState.FAIL or has_diverged(trial)):
                self._finished.add(held)
        elif held and trial.number != current.number:
            self._running[trial.number] = held

    def holds(self, candidate: str, until: float = math.inf) -> bool:
        """Whether a finished trial holds it, or one that runs, of a number below `until`."""
        running = (held for number, held in self._running.items() if number < until)
        return candidate in self._finished or candidate in running


class Scratch(BorneOut):
    """A study as the inner sampler sees it: reads go through, writes wait.

    Samplers note things in the storage whenever they propose.  Those of a rejected
    proposal must not stay, and would cost a transaction each.  Trainings of finalists are no
    proposals: the best networks, many times over, would teach a sampler that nothing else is;
    nor are networks that the space does not express.  What failed shows as the worst.
    """

    def __init__(self, study: Study, trial: FrozenTrial) -> None:
        super().__init__(study)
        self._storage = ScratchStorage(study, trial)
        self.trial = self._storage.trial

    def _seen(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return as_worst(learnable(super()._seen(trials)), self.directions)

    def write(self) -> None:
        self._storage.write()


class ScratchStorage:
    """The storage of a `Scratch`: reads through, and keeps what is noted until `write`."""

    def __init__(self, study: Study, trial: FrozenTrial) -> None:
        self._study = study
        self._storage = storage_of(study)
        self._of_study: dict[str, Any] | None = None
        self._pending_study: dict[str, Any] = {}
        self._pending_trial: dict[str, Any] = {}
        # Samplers look at what they noted before, so notes show on this copy at once.
        self.trial = copy.copy(trial)
        self.trial.system_attrs = dict(trial.system_attrs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        if self._of_study is None:
            self._of_study = dict(self._storage.get_study_system_attrs(study_id))
        return self._of_study

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.get_study_system_attrs(study_id)[key] = value
        self._pending_study[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.trial.system_attrs[key] = value
        self._pending_trial[key] = value

    def write(self) -> None:
        for key, value in self._pending_study.items():
            self._storage.set_study_system_attr(study_id(self._study), key, value)
        for key, value in self._pending_trial.items():
            self._storage.set_trial_system_attr(trial_id(self.trial), key, value)
