"""Which of a few noisy candidates is the best, and how certain that is.

Ranking and selection: the measures of finalist `i` are normal around its true mean, with one
noise for all finalists, and the true means are normal around a common one.  How far they
spread compared with the noise is not known and follows from the measures: a fully Bayesian
one-way layout (Gelman, Bayesian Analysis 1, 2006, with its half-Cauchy prior).  Its scale is
twice the noise, for the best of many noisy trials differ by about their noise; the two has no
source, but was chosen on the committed landscape, on which `benchmarks.finalists` judges it.  A
flat prior would take chance differences between near equals for real ones.  What the search
measured is no measure here: of many noisy numbers it is among the highest.

The posterior is the same however it was decided when to stop, so it may be looked at after
each measure.  The next measure goes to one of the two that are most probably the best, the
one measured less often: top-two allocation (Russo, Operations Research 68, 2020), which
drops the others as soon as they are clearly worse and takes them back if they are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search.config.sections import FINALIST_MEASURES

CERTAIN = 0.95
"""The probability of being the best at which a leader is the winner."""

_DRAWS = 20_000
# Spreads of the true means in units of the noise, at equal quantiles of the half-Cauchy prior.
_SPREADS = 2 * np.tan(np.pi / 2 * (np.arange(200) + 0.5) / 200)
_SMALLEST = 1e-10  # the square of a thousandth of a point, where nothing tells the noise

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """What the measures of finalists say about their true means.

    Each measure is a share of `images` validation images; None where that is not known.

    Raises:
        ValueError: a finalist has fewer than `FINALIST_MEASURES` measures, or there is none.
    """

    measures: tuple[tuple[float, ...], ...]
    images: int | None = None

    def __post_init__(self) -> None:
        fewest = min(map(len, self.measures), default=0)
        if fewest < FINALIST_MEASURES:
            raise ValueError(
                f"each finalist needs {FINALIST_MEASURES} measures, but one has {fewest}"
            )

    @cached_property
    def probabilities(self) -> tuple[float, ...]:
        """The probability of each finalist to be the best, by Monte Carlo with a fixed seed."""
        best = np.bincount(self._draws.argmax(axis=1), minlength=len(self.measures))
        return tuple(float(share) for share in best / len(self._draws))

    @property
    def leader(self) -> int:
        """The most probable best."""
        return int(np.argmax(self.probabilities))

    @cached_property
    def means(self) -> tuple[float, ...]:
        """The posterior mean of each: nearer to the common mean than the measures' own, as
        far as the noise explains their distance, so that the leader's is not too high."""
        pull = 1 / _SPREADS[:, None] ** 2
        pulled = (self._counts * self._averages + self._common[:, None] * pull) / (
            self._counts + pull
        )
        return tuple(float(mean) for mean in self._shares @ pulled)

    @cached_property
    def errors(self) -> tuple[float, ...]:
        """A standard error of each: half the width of the posterior's central 68.3 %, but no
        less than the noise of so many measures, s / √n."""
        low, high = np.quantile(self._draws, (0.1585, 0.8415), axis=0)
        errors = np.maximum((high - low) / 2, self.noise / np.sqrt(self._counts))
        return tuple(float(error) for error in errors)

    @cached_property
    def noise(self) -> float:
        """The standard deviation s of one measure.

        All finalists have the same, so it is pooled: s² = Σᵢ Σⱼ (xᵢⱼ - x̄ᵢ)² / Σᵢ (nᵢ - 1), the
        mean square within groups (Montgomery, Design and Analysis of Experiments, chapter 3).
        Where no measure differs from the others of its finalist, as two trainings on a few hundred
        images often do, it is the binomial error of a share p of N images, √(p (1 - p) / N), which
        bounds the noise of independent trainings; p with two hits and two misses more, so that
        100 % is not certain either (Agresti and Coull, American Statistician 52, 1998).
        """
        if self._within > 0 or self.images is None:
            return math.sqrt(self._within / self._repeats)
        hits = self.images * float(np.average(self._averages, weights=self._counts))
        share = (hits + 2) / (self.images + 4)
        return math.sqrt(share * (1 - share) / self.images)

    @property
    def _within(self) -> float:
        """The sum of squares within finalists."""
        differing = (values for values in self.measures if len(set(values)) > 1)
        return sum(len(values) * float(np.var(values)) for values in differing)

    @property
    def _repeats(self) -> int:
        """The degrees of freedom within finalists."""
        return int((self._counts - 1).sum())

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return np.array([len(values) for values in self.measures])

    @cached_property
    def _averages(self) -> Floats:
        return np.array([np.mean(values) for values in self.measures])

    @cached_property
    def _weights(self) -> Floats:
        """(spreads, finalists): inverse variances of the averages around the common mean, in
        units of the noise."""
        return np.asarray(1 / (_SPREADS[:, None] ** 2 + 1 / self._counts))

    @cached_property
    def _common(self) -> Floats:
        """The common mean that each spread makes most probable."""
        return np.asarray((self._weights @ self._averages) / self._weights.sum(axis=1))

    @cached_property
    def _squares(self) -> Floats:
        """The sum of squares that the noise explains, within finalists and between, for each
        spread."""
        within = self._repeats * self.noise**2 + _SMALLEST
        distances = (self._averages - self._common[:, None]) ** 2
        return np.asarray((self._weights * distances).sum(axis=1) + within)

    @property
    def _freedom(self) -> int:
        return int(self._counts.sum()) - 1

    @cached_property
    def _shares(self) -> Floats:
        """The posterior of the spreads, noise and common mean integrated out."""
        density = np.log(self._weights).sum(axis=1) - np.log(self._weights.sum(axis=1))
        density -= self._freedom * np.log(self._squares)
        shares = np.exp((density - density.max()) / 2)
        return np.asarray(shares / shares.sum())

    @cached_property
    def _draws(self) -> Floats:
        """Draws of all true means, (draws, finalists): of the spread, given it of the noise,
        given both of the common mean, and given these of each."""
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(_SPREADS), _DRAWS, p=self._shares)
        noise = np.sqrt(self._squares[chosen] / rng.chisquare(self._freedom, _DRAWS))
        width = noise / np.sqrt(self._weights[chosen].sum(axis=1))
        center = self._common[chosen] + width * rng.normal(size=_DRAWS)
        pull = 1 / _SPREADS[chosen, None] ** 2
        precision = self._counts + pull
        mean = (self._counts * self._averages + center[:, None] * pull) / precision
        scatter = noise[:, None] * rng.normal(size=mean.shape) / np.sqrt(precision)
        return np.asarray(mean + scatter)
