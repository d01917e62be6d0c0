"""What a sampler of ours is to the feasible one around it."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

Distributions = dict[str, BaseDistribution]


class InnerSampler(BaseSampler):
    """Proposes all parameters of a trial at once, in `sample_relative`.

    `FeasibleSampler` alone asks it, and tells it the search space.
    """

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise RuntimeError(f"{param_name} is proposed with all others")
