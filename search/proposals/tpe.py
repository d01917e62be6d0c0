"""TPE over the survivors alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.proposals.filling import Choices
from search.proposals.inner import Distributions, Inner, Seeds
from search.proposals.judged import JudgedProposals
from search.proposals.sequences import Floats


class FeasibleTPE(TPESampler, Inner):
    """TPE whose density of good trials is restricted to survivors.

    Restricting both densities to the legal set divides each by a constant, so their ratio
    ranks survivors as plain TPE would.  The densities are fitted to the newest `_WINDOW`
    trials of each side, which bounds the cost in long studies.
    """

    name = "tpe"
    patience = 1

    _WINDOW = 500

    def __init__(self, seeds: Seeds, proposals: JudgedProposals) -> None:
        super().__init__(seed=seeds.trial, multivariate=True, group=False, constant_liar=True)
        self._proposals = proposals

    def _build_parzen_estimator(
        self,
        study: Study,
        search_space: Distributions,
        trials: list[FrozenTrial],
        handle_below: bool,
    ) -> Any:
        estimator = super()._build_parzen_estimator(
            study, search_space, trials[-self._WINDOW :], handle_below
        )
        return _Survivors(estimator, search_space, self._proposals) if handle_below else estimator


class _Survivors:
    """A Parzen estimator that gives only samples which survive, as long as it finds any."""

    _BATCH = 32
    # Draws after which fewer survivors than asked for will do, and after which none will.
    _ENOUGH = 500
    _HOPELESS = 2_000

    def __init__(self, estimator: Any, space: Distributions, proposals: JudgedProposals) -> None:
        self._estimator = estimator
        self._space = space
        self._proposals = proposals

    def sample(self, rng: np.random.RandomState, size: int) -> dict[str, Floats]:
        survivors: list[Choices] = []
        drawn = 0
        while drawn < (self._ENOUGH if survivors else self._HOPELESS):
            batch = self._estimator.sample(rng, self._BATCH)
            drawn += self._BATCH
            for index in range(self._BATCH):
                survivor = self._proposals.judge(self._external(batch, index))
                if survivor is not None:
                    survivors.append(survivor)
                if len(survivors) == size:
                    return self._internal(survivors)
        return self._internal(survivors) if survivors else batch

    def log_pdf(self, samples: dict[str, Floats]) -> Floats:
        return np.asarray(self._estimator.log_pdf(samples), dtype=float)

    def _external(self, batch: Mapping[str, Floats], index: int) -> Choices:
        return {
            name: distribution.to_external_repr(batch[name][index].item())
            for name, distribution in self._space.items()
        }

    def _internal(self, survivors: Sequence[Choices]) -> dict[str, Floats]:
        return {
            name: np.array([distribution.to_internal_repr(s[name]) for s in survivors])
            for name, distribution in self._space.items()
        }
