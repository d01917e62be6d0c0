"""A sampler as the feasible one around it uses it: one class, which `study.sampler` names."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.config.sections import StudySection
from search.proposals.judged import JudgedProposals

Distributions = dict[str, BaseDistribution]


class Seeds(NamedTuple):
    """The seed that all trials of a study share, and the one of this trial."""

    study: int
    trial: int


class Inner(BaseSampler, ABC):
    """Proposes choices for one trial, `patience` times in a row before its last are mended."""

    name: ClassVar[str]
    patience: ClassVar[float] = math.inf

    @abstractmethod
    def __init__(self, seeds: Seeds, proposals: JudgedProposals) -> None: ...

    @classmethod
    def refusal(cls, study: StudySection, space: Distributions) -> str:
        """Why it cannot search `space` for `study`, in a few words; nothing where it can."""
        return ""


class InnerSampler(Inner):
    """A sampler of ours, which proposes all parameters of a trial at once, in `sample_relative`.

    `FeasibleSampler` alone asks it, and tells it the search space.
    """

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise RuntimeError(f"{param_name} is proposed with all others")
