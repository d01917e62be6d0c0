"""Gaussian process search over the survivors alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.samplers import GPSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.proposals.extrapolated import extrapolated
from search.proposals.filling import Choices
from search.proposals.inner import Distributions, Inner, Seeds
from search.proposals.judged import JudgedProposals
from search.proposals.sequences import Floats


class FeasibleGP(GPSampler, Inner):
    """Gaussian-process search whose acquisition function is maximized over survivors.

    The survivors are mutations of finished trials and uniform draws, then mutations of
    the best of these.  The process is fitted to the newest and the best trials, `_WINDOW`
    together, since its cost grows with their cube; pruned ones count with what they would have
    reached.
    """

    name = "gp"
    patience = 1

    _STARTUP = 10  # trials that ended, pruned ones too; Optuna counts the completed alone
    _WINDOW = 150
    _FIRST = 256
    _ROUNDS = 4
    _PARENTS = 8
    _CHILDREN = 8

    def __init__(self, seeds: Seeds, proposals: JudgedProposals) -> None:
        super().__init__(seed=seeds.trial, n_startup_trials=1, warn_independent_sampling=False)
        self._proposals = proposals
        self._parents: list[FrozenTrial] = []

    def _sample_relative_impl(
        self,
        study: Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: Distributions,
    ) -> dict[str, Any]:
        pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        trials = completed_trials + extrapolated(pruned, completed_trials)
        if len(trials) < self._STARTUP:
            return {}
        trials.sort(key=lambda trial: trial.number)
        self._parents = _newest_and_best(trials, study.directions, self._WINDOW)
        with warnings.catch_warnings():
            # A trial that never reached the target has an infinite cost (`storage/goals.py`), which
            # the process sees as the highest that is known.
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            return super()._sample_relative_impl(
                study, self._parents, running_trials[-self._WINDOW :], search_space
            )

    def _optimize_acqf(self, acqf: Any, best_params: Floats | None) -> Floats:
        pool = self._first_pool()
        if not pool:
            return super()._optimize_acqf(acqf, best_params)
        for _ in range(self._ROUNDS):
            values = self._values(acqf, pool)
            best = [pool[i] for i in np.argsort(-values)[: self._PARENTS]]
            pool = best + self._neighbors(best, self._CHILDREN)
        best_of_all = int(np.argmax(self._values(acqf, pool)))
        return np.asarray(self._normalized(acqf, pool)[best_of_all])

    def _first_pool(self) -> list[Choices]:
        uniform = [self._proposals.judge({}) for _ in range(self._FIRST // 2)]
        near = [t.params for t in self._parents]
        children = self._neighbors(near, math.ceil(self._FIRST / 2 / len(near)))
        return [choices for choices in uniform if choices is not None] + children

    def _neighbors(self, parents: Sequence[Mapping[str, Any]], each: int) -> list[Choices]:
        found = [self._proposals.neighbor(parent) for parent in parents for _ in range(each)]
        return [choices for choices in found if choices is not None]

    def _values(self, acqf: Any, pool: Sequence[Choices]) -> Floats:
        return np.asarray(acqf.eval_acqf_no_grad(self._normalized(acqf, pool)), dtype=float)

    @staticmethod
    def _normalized(acqf: Any, pool: Sequence[Choices]) -> Floats:
        return np.asarray(acqf.search_space.get_normalized_params([None] * len(pool), pool))


def _newest_and_best(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], size: int
) -> list[FrozenTrial]:
    """At most `size` trials: half of them the newest, half the best by each objective."""
    if len(trials) <= size:
        return list(trials)
    chosen = {trial.number: trial for trial in trials[-(size // 2) :]}
    share = size // 2 // len(directions)
    for objective, direction in enumerate(directions):
        values = np.array([trial.values[objective] for trial in trials])
        order = np.argsort(-values if direction is StudyDirection.MAXIMIZE else values)
        chosen.update((trials[i].number, trials[i]) for i in order[:share])
    return [chosen[number] for number in sorted(chosen)]
