"""Widths scaled together until a network fills its limit."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from constraints import Violation
from search.analysis.facts import count_macs, count_parameters
from search.config.sections import StudyConfig
from search.domains import Choice, Domain, IntRange, Scalar
from search.networks.architecture import Architecture
from space import Fill

Choices = dict[str, Scalar]

Build = Callable[[Choices], Architecture]


class Filler:
    """Scales all widths by one factor, up to rounding, until a counted quantity lands in
    the top share of its limit.

    The widths stay members of their domains, and a head of 0, which is no head, stays 0.
    Choices that land there already are left alone, so filling what was filled changes
    nothing.
    """

    # The first steps assume that the count grows with the square of the widths, which
    # lands at once where 1x1 and dense convolutions rule; bisection does the rest.
    _SECANT_STEPS = 4
    _STEPS = 40
    _FINEST = 1.0005

    def __init__(self, fill: Fill, config: StudyConfig) -> None:
        self._count = count_macs if fill.limit == "macs" else count_parameters
        self._noun = fill.limit
        self._top = config.rules.to_mapping()[fill.limit]
        self._floor = math.ceil(fill.share * self._top)
        self._members = {
            name: _positive_members(domain)
            for name, domain in config.space.parameters.items()
            if name.endswith(".width") or name == "head"
        }

    def fill(self, choices: Choices, build: Build) -> tuple[Choices, Violation | None]:
        """The scaled choices, and the miss where no scaling lands in the range."""
        low, high = self._ends(choices)
        factor = 1.0
        for step in range(self._STEPS):
            scaled = choices if factor == 1.0 else self._scaled(choices, factor)
            count = self._count(build(scaled))
            if self._floor <= count < self._top:
                return scaled, None
            if count < self._floor:
                low = max(low, factor)
            else:
                high = min(high, factor)
            if high <= low * self._FINEST:
                break
            factor = self._next(factor, count, low, high, step)
        return self._mixed(self._scaled(choices, low), self._scaled(choices, high), build)

    def _mixed(
        self, small: Choices, large: Choices, build: Build
    ) -> tuple[Choices, Violation | None]:
        """Between two neighbouring scalings: as many widths of `large` as there is room for.

        Equal widths step at the same factor, and all together may jump over the range.
        """
        count = self._count(build(small))
        for name in self._members:
            mixed = {**small, name: large[name]}
            more = self._count(build(mixed))
            if more < self._top:
                small, count = mixed, more
        return small, None if self._floor <= count < self._top else self._miss(count)

    def _next(self, factor: float, count: int, low: float, high: float, step: int) -> float:
        if step < self._SECANT_STEPS:
            guess = factor * math.sqrt((self._floor + self._top) / 2 / count)
            return min(max(guess, low), high)
        return math.sqrt(low * high)

    def _ends(self, choices: Choices) -> tuple[float, float]:
        """Factors that bring every width to the low, and to the high end of its domain."""
        ends = [
            (members[0] / width, members[-1] / width)
            for members, width in self._scalable(choices).values()
        ]
        if not ends:
            return 1.0, 1.0
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _scaled(self, choices: Choices, factor: float) -> Choices:
        widths = {
            name: _nearest(members, width * factor)
            for name, (members, width) in self._scalable(choices).items()
        }
        return {**choices, **widths}

    def _scalable(self, choices: Choices) -> dict[str, tuple[Sequence[int], int]]:
        widths = {name: int(choices[name]) for name in self._members}
        return {name: (self._members[name], width) for name, width in widths.items() if width}

    def _miss(self, count: int) -> Violation:
        distance = self._floor - count if count < self._floor else count - self._top + 1
        message = (
            f"widths must scale to {self._noun} in [{self._floor:,}, {self._top:,}), "
            f"but the nearest gave {count:,}"
        )
        return Violation("fill", count, self._top, message, distance / self._top)


def _positive_members(domain: Domain) -> Sequence[int]:
    """The positive members of a domain of whole numbers, in increasing order."""
    if isinstance(domain, IntRange):
        members = range(domain.low, domain.high + 1, domain.step)
        return members if domain.low > 0 else members[1:]
    if isinstance(domain, Choice):
        return sorted(value for value in map(int, domain.values) if value > 0)
    raise TypeError(f"widths must be whole numbers, but got {domain!r}")


def _nearest(members: Sequence[int], value: float) -> int:
    """The member closest to `value`, the lower one of two."""
    above = bisect_left(members, value)
    around = members[max(above - 1, 0) : above + 1]
    return min(around, key=lambda member: abs(member - value))
