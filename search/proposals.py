"""Proposals and what becomes of them: accepted, or rejected by which rule.

A proposal is one value per parameter of the study.  `Proposer.judge` builds its
architecture as plain data, fills it where `space.fill` asks for that, and asks the
checker; nothing is trained and nothing is stored.  Optuna is not known here.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from constraints import Limits, Violation, count_macs, count_parameters, violations
from search.config import Candidate, ConfigError, StudyConfig
from search.shown import Shown
from space import Architecture, Choice, Domain, IntRange, Scalar

Choices = dict[str, Scalar]
Input = tuple[int, int, int]
Build = Callable[[Choices], Architecture]

# Rules that scaling the widths cannot mend: they are asked before the widths are filled.
_WIDTH_FREE = frozenset(
    {"receptive_field", "downsampling", "depthwise_separable", "dilated", "feature_map", "depth"}
)


class InfeasibleError(RuntimeError):
    """No candidate was accepted within the budget of proposals: exit code 1."""

    def __init__(self, acceptance: Acceptance, message: str = "") -> None:
        super().__init__(
            message
            or f"no candidate was accepted in {acceptance.proposed:,} proposals; "
            f"{acceptance.summary()}; widen [space] or relax [limits]"
        )
        self.acceptance = acceptance


@dataclass(frozen=True)
class Proposal:
    """Choices as they would be trained, the network they mean, and the rules they break."""

    choices: Choices
    architecture: Architecture
    violations: tuple[Violation, ...]

    @property
    def accepted(self) -> bool:
        return not self.violations

    @property
    def excess(self) -> float:
        """How far from legal: the sum over the broken rules, 0 where none is."""
        return sum(violation.excess for violation in self.violations)


@dataclass
class Acceptance(Shown):
    """A tally of proposals.

    A proposal that breaks several rules counts under each of them in `rejected`, so those
    may add up to more than were rejected.  `closest` is the nearest miss.
    """

    proposed: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    closest: Proposal | None = None

    @property
    def share(self) -> float:
        """Accepted per proposed, 0 where nothing was proposed."""
        return self.accepted / self.proposed if self.proposed else 0.0

    def add(self, proposal: Proposal) -> None:
        self.proposed += 1
        if proposal.accepted:
            self.accepted += 1
            return
        self.rejected.update(violation.rule for violation in proposal.violations)
        if self.closest is None or proposal.excess < self.closest.excess:
            self.closest = proposal

    def summary(self) -> str:
        """One line: which rule rejects how much, and the closest miss."""
        if not self.rejected:
            return "nothing was rejected"
        rules = ", ".join(
            f"{rule} rejects {count / self.proposed:.1%}"
            for rule, count in self.rejected.most_common()
        )
        return f"{rules}; {_miss(self.closest)}" if self.closest else rules

    def to_json(self) -> dict[str, Any]:
        closest = self.closest and {
            "choices": self.closest.choices,
            "architecture": self.closest.architecture.to_json(),
            "violations": [violation.to_json() for violation in self.closest.violations],
        }
        return {
            "proposed": self.proposed,
            "accepted": self.accepted,
            "rejected": dict(self.rejected.most_common()),
            "closest": closest,
        }


def _miss(proposal: Proposal) -> str:
    reasons = "; ".join(violation.message for violation in proposal.violations)
    return f"closest miss: architecture {proposal.architecture.hash}: {reasons}"


class Proposer:
    """Draws and judges proposals for the networks of one study.

    `input` is (channels, height, width) of its images, `classes` their number.

    Raises:
        ConfigError: `space.fill` names a limit that `[limits]` does not hold.
    """

    def __init__(self, config: StudyConfig, input: Input, classes: int) -> None:
        self.config = config
        self.domains = config.parameters
        self._input = input
        self._classes = classes
        self._limits = config.rules
        self._width_free = Limits(
            tuple(rule for rule in config.rules.rules if rule.key in _WIDTH_FREE)
        )
        self._filler = _Filler(config) if config.space.fill else None

    def complete(self, partial: Mapping[str, Any], rng: random.Random) -> Choices:
        """`partial` with a uniform, independent value for each parameter that it lacks."""
        return {
            name: partial[name] if name in partial else domain.sample(rng)
            for name, domain in self.domains.items()
        }

    def judge(self, choices: Choices, *, fill: bool = True) -> Proposal:
        """The proposal that `choices` make; `fill` False takes the widths as they are."""
        architecture = self._build(choices)
        if self._filler and fill:
            broken = violations(architecture, self._width_free)
            if broken:
                return Proposal(choices, architecture, broken)
            choices, missed = self._filler.fill(choices, self._build)
            architecture = self._build(choices)
            if missed:
                return Proposal(choices, architecture, (missed,))
        return Proposal(choices, architecture, violations(architecture, self._limits))

    def candidate(self, choices: Choices) -> Candidate:
        """What the choices of an accepted proposal train."""
        return self.config.candidate(choices, input=self._input, classes=self._classes)

    def _build(self, choices: Choices) -> Architecture:
        return self.config.space.architecture(choices, input=self._input, classes=self._classes)


def propose(
    config: StudyConfig, input: Input, classes: int, rng: random.Random
) -> Iterator[Proposal]:
    """Endless proposals, uniform over the space of the study, each with its verdict."""
    proposer = Proposer(config, input, classes)
    while True:
        yield proposer.judge(proposer.complete({}, rng))


def estimate(
    config: StudyConfig, input: Input, classes: int, n: int, rng: random.Random
) -> Acceptance:
    """The tally of `n` uniform proposals."""
    acceptance = Acceptance()
    for proposal, _ in zip(propose(config, input, classes, rng), range(n), strict=False):
        acceptance.add(proposal)
    return acceptance


# ---------------------------------------------------------------------------- filling


class _Filler:
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

    def __init__(self, config: StudyConfig) -> None:
        fill = config.space.fill
        if fill is None or fill.limit not in config.limits:
            raise ConfigError(
                "space.fill.limit: must be an entry of [limits]"
                + (f", but there is no {fill.limit}" if fill else "")
            )
        self._count = count_macs if fill.limit == "macs" else count_parameters
        self._noun = fill.limit
        self._top = int(config.limits[fill.limit])
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
