"""Samplers that walk along a sequence, which belongs to the study, not to a trial."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from search.config.sections import StudySection
from search.proposals.filling import Choices
from search.proposals.inner import Distributions, InnerSampler, Seeds
from search.proposals.internals import queued_with
from search.proposals.judged import JudgedProposals
from search.proposals.proposer import ExhaustedError
from search.storage.internals import storage_of, study_id

Floats = NDArray[np.float64]

# Where the sequences of qmc and grid stand, as a system attribute of the study.
_POSITION = "feasible:position"


class FeasibleQMC(InnerSampler):
    """A scrambled Sobol sequence that a study consumes without gaps.

    Optuna's own builds a new engine and winds it forward for every single point.  The
    scrambling follows from the seed of the study, so all workers walk one sequence.
    """

    name = "qmc"

    _BLOCK = 64

    def __init__(self, seeds: Seeds, proposals: JudgedProposals) -> None:
        self._study_seed = seeds.study
        self._points: Iterator[Floats] | None = None

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> Choices:
        """The next point of the sequence."""
        position = _advance(study)
        if self._points is None:
            self._points = self._walk(len(search_space), position)
        point = next(self._points)
        return {
            name: _at(distribution, coordinate)
            for (name, distribution), coordinate in zip(
                search_space.items(), point.tolist(), strict=True
            )
        }

    def _walk(self, dimension: int, start: int) -> Iterator[Floats]:
        engine = qmc.Sobol(dimension, rng=np.random.default_rng(self._study_seed))
        if start:
            engine.fast_forward(start)
        while True:
            yield from engine.random(self._BLOCK)


def _at(distribution: BaseDistribution, coordinate: float) -> Any:
    """The value at `coordinate`, in [0, 1), of a domain."""
    if not isinstance(distribution, FloatDistribution):
        return _member(distribution, int(coordinate * _size(distribution)))
    low, high = distribution.low, distribution.high
    if not distribution.log:
        return low + coordinate * (high - low)
    return min(max(low * (high / low) ** coordinate, low), high)


def _advance(study: Study) -> int:
    """The position of the study in its sequence; moves on by one."""
    attributes = storage_of(study).get_study_system_attrs(study_id(study))
    position = int(attributes.get(_POSITION, 0))
    storage_of(study).set_study_system_attr(study_id(study), _POSITION, position + 1)
    return position


class FeasibleGrid(InnerSampler):
    """Every point of the grid once, in an order that the study's seed shuffles.

    The order is an affine map of the point's number, so that a grid of any size takes no
    memory.  Optuna's own writes all points down first.
    """

    name = "grid"

    def __init__(self, seeds: Seeds, proposals: JudgedProposals) -> None:
        self._study_seed = seeds.study
        self._proposals = proposals

    @classmethod
    def refusal(cls, study: StudySection, space: Distributions) -> str:
        real = [k for k, v in space.items() if isinstance(v, FloatDistribution)]
        if not real:
            return ""
        return (
            "needs lists or ranges of whole numbers, "
            f"but {', '.join(real)} is a range of real numbers"
        )

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> Choices:
        """The next point, or none for a trial that was queued with some values: under them the
        point would be lost.

        Raises:
            ExhaustedError: there is none.
        """
        if queued_with(trial):
            return {}
        sizes = [_size(distribution) for distribution in search_space.values()]
        total = math.prod(sizes)
        position = _advance(study)
        if position >= total:
            raise ExhaustedError(self._proposals.tally)
        factor, shift = _shuffle(total, self._study_seed)
        number = (factor * position + shift) % total
        point: Choices = {}
        for (name, distribution), size in zip(search_space.items(), sizes, strict=True):
            number, index = divmod(number, size)
            point[name] = _member(distribution, index)
        return point


def _shuffle(total: int, seed: int) -> tuple[int, int]:
    """A factor without common divisor with `total`, and a shift."""
    rng = random.Random(seed)
    while True:
        factor = rng.randrange(total) if total > 1 else 1
        if math.gcd(factor, total) == 1:
            return factor, rng.randrange(total)


def _size(distribution: BaseDistribution) -> int:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    raise TypeError(f"a grid needs countable domains, but got {distribution}")


def _member(distribution: BaseDistribution, index: int) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[index]
    if isinstance(distribution, IntDistribution):
        return distribution.low + index * distribution.step
    raise TypeError(f"a grid needs countable domains, but got {distribution}")
