"""CMA-ES whose state follows from the trials: nothing is unpickled."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.config.sections import StudySection
from search.proposals.filling import Choices
from search.proposals.inner import Distributions, InnerSampler, Seeds
from search.proposals.internals import SearchSpaceTransform
from search.proposals.judged import JudgedProposals
from search.storage.internals import storage_of, trial_id, trials_at_start


class ReplayedCMAES(InnerSampler):
    """CMA-ES (Hansen, arXiv:1604.00772) whose state follows from the trials that it proposed.

    Optuna's own keeps a pickle of the state in the study, so whoever may write to the database
    would run code on every worker.  Here each trial notes its generation, a number, and the
    generations are told again in the order in which their trials ended.
    """

    name = "cmaes"
    patience = 10

    GENERATION = "cma:generation"  # Optuna's name: studies that it began go on

    def __init__(self, seeds: Seeds, proposals: JudgedProposals) -> None:
        self._seed = seeds.trial
        self._optimizer: Any = None

    @classmethod
    def refusal(cls, study: StudySection, space: Distributions) -> str:
        if importlib.util.find_spec("cmaes") is None:
            return "needs a package: pip install cmaes"
        if len(study.objectives) > 1:
            return "takes one objective; use tpe+gp, tpe, gp or nsga2"
        if sum(not isinstance(v, CategoricalDistribution) for v in space.values()) < 2:
            return "needs at least two ranges; lists do not count"
        return ""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> Choices:
        """A point of the running generation; nothing before the first trial has completed."""
        done = [t for t in trials_at_start(study) if t.state is TrialState.COMPLETE]
        if not done:
            return {}
        space = SearchSpaceTransform(search_space, transform_step=True, transform_0_1=True)
        if self._optimizer is None:
            sign = -1 if study.direction is StudyDirection.MAXIMIZE else 1
            self._optimizer = self.replayed(space, done, sign)
        generation = self._optimizer.generation
        storage_of(study).set_trial_system_attr(trial_id(trial), self.GENERATION, generation)
        return space.untransform(self._optimizer.ask())

    def replayed(
        self, space: SearchSpaceTransform, trials: Sequence[FrozenTrial], sign: int
    ) -> Any:
        """The `cmaes.CMA` that was told every full generation of the completed `trials`;
        `sign` is -1 where values are maximized."""
        from cmaes import CMA  # an optional package

        low, high = space.bounds.T
        optimizer = CMA(
            mean=(low + high) / 2,
            sigma=float(np.min(high - low)) / 6,
            bounds=space.bounds,
            seed=self._seed,
            n_max_resampling=10 * len(low),
        )
        generations: dict[Any, list[FrozenTrial]] = {}
        # By their ends: one that comes in late must not change what was told before.
        for trial in sorted(trials, key=lambda t: (t.datetime_complete, t.number)):
            generations.setdefault(trial.system_attrs.get(self.GENERATION), []).append(trial)
        size = optimizer.population_size
        while len(told := generations.get(optimizer.generation, [])[:size]) == size:
            optimizer.tell([(space.transform(t.params), sign * t.values[0]) for t in told])
        return optimizer
