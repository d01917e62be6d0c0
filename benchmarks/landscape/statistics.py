"""Estimates with their 95 % intervals, from formulas: a page is printed in a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A number of `n` observations, and where the true one lies with 95 % confidence."""

    value: float
    low: float
    high: float
    n: int

    def format(self, digits: int, scale: float = 1.0) -> str:
        """`value (low to high)`, each times `scale`."""
        value, low, high = (
            f"{scale * number:.{digits}f}" for number in (self.value, self.low, self.high)
        )
        return f"{value} ({low} to {high})"

    @property
    def certain(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def spearman(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """The rank correlation of `x` and `y`; its interval by Fisher's z with the standard error
    of Bonett and Wright (Psychometrika 65, 2000).  NaN where either is constant."""
    n = len(x)
    if n < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return Estimate(math.nan, math.nan, math.nan, n)
    r = float(stats.spearmanr(x, y).statistic)
    z, half = (
        np.arctanh(min(max(r, -0.999999), 0.999999)),
        1.96 * math.sqrt((1 + r * r / 2) / (n - 3)),
    )
    return Estimate(r, float(np.tanh(z - half)), float(np.tanh(z + half)), n)


def difference(ours: Sequence[float], others: Sequence[float]) -> Estimate:
    """The mean of `ours` less that of `others`, and Welch's interval of it."""
    if min(len(ours), len(others)) < 2:
        return Estimate(math.nan, math.nan, math.nan, len(ours))
    low, high = stats.ttest_ind(ours, others, equal_var=False).confidence_interval()
    value = float(np.mean(ours) - np.mean(others))
    return Estimate(value, float(low), float(high), len(ours))


def deviation(groups: Sequence[Sequence[float]]) -> Estimate:
    """The standard deviation within groups, pooled; its interval by the chi-square
    distribution.  `n` counts the degrees of freedom."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return Estimate(math.nan, math.nan, math.nan, 0)
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    low, high = (math.sqrt(squares / stats.chi2.ppf(q, freedom)) for q in (0.975, 0.025))
    return Estimate(math.sqrt(squares / freedom), low, high, freedom)
