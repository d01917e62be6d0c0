"""Local search: mutations of the best network so far."""

from __future__ import annotations

import random
from collections.abc import Sequence

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.proposals.filling import Choices
from search.proposals.inner import Distributions, InnerSampler
from search.proposals.judged import JudgedProposals


class FeasibleLocalSearch(InnerSampler):
    """After a few uniform draws, the survivors among mutations of the best completed trial.

    With several objectives the parent is any trial of the Pareto front.  Where mutation after
    mutation is illegal or taken, the proposal is uniform: a small neighborhood ends, the study
    does not.  Simple, and hard to beat on architectures (White et al., arXiv:2005.02960).
    """

    _FIRST = 5
    _TRIES = 200

    def __init__(self, seed: int, proposals: JudgedProposals) -> None:
        self._rng = random.Random(seed)
        self._proposals = proposals

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> Choices:
        """A mutation of the best; nothing, which means a uniform draw, where there is none."""
        done = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True)
        if len(done) < self._FIRST:
            return {}
        parent = self._parent(study, done)
        found = (self._proposals.neighbor(parent.params) for _ in range(self._TRIES))
        return next((child for child in found if child is not None), {})

    def _parent(self, study: Study, done: Sequence[FrozenTrial]) -> FrozenTrial:
        if len(study.directions) > 1:
            return self._rng.choice(study.best_trials)
        sign = 1 if study.direction is StudyDirection.MAXIMIZE else -1
        return max(done, key=lambda trial: sign * trial.values[0])
