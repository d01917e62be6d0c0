"""Why a network is as large as it is, what in it is wasteful, and the nearest legal one.

All of it is data about an `Analysis` or an `Architecture`; nothing here judges: advice is
no rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from constraints import Limits, Violation, violations
from search.analysis.facts import Facts
from search.domains import Choice, Domain, FloatRange, IntRange, Scalar
from search.networks.architecture import Architecture, ArchitectureError
from search.proposals.choices import ANY_SPACE, choices_of
from space import SearchSpace


@dataclass(frozen=True, slots=True)
class Change:
    """One choice of the search space, by its flat name, made otherwise."""

    parameter: str
    old: Scalar
    new: Scalar

    def __str__(self) -> str:
        return f"{self.parameter.replace('.', ' ')} {self.old} → {self.new}"

    @property
    def distance(self) -> float:
        """Relative to the old value; 1 for what is no number."""
        if isinstance(self.old, bool | str) or isinstance(self.new, bool | str):
            return 1.0
        return abs(self.new - self.old) / max(abs(self.old), 1)


@dataclass(frozen=True, slots=True)
class Remedy:
    """Changes that satisfy all limits, and the legal architecture they lead to."""

    changes: tuple[Change, ...]
    architecture: Architecture

    def __str__(self) -> str:
        summary = Facts(self.architecture)
        done = ", ".join(map(str, self.changes))
        return f"{done}: RF {summary.smaller_field}, {summary.parameters:,} parameters"


def remedy(
    architecture: Architecture, limits: Limits, space: SearchSpace = ANY_SPACE, most: int = 4
) -> Remedy | None:
    """The fewest, then smallest, changes inside `space` that make `architecture` legal.

    None where it is legal, where `space` does not express it, or where no way of at most
    `most` changes is found: single changes are tried all, longer ways from the eight most
    promising at each length.
    """
    start = choices_of(architecture, space)
    if start is None or not violations(architecture, limits):
        return None
    ways: list[tuple[Change, ...]] = [()]
    for _ in range(most):
        tried: dict[Architecture, tuple[tuple[float, float], tuple[Change, ...]]] = {}
        for way in ways:
            for change in _single(start, way, space):
                longer = (*way, change)
                try:
                    network = _changed(architecture, start, longer, space)
                except ArchitectureError:  # a C4 of depth 0 without a head is no network
                    continue
                rank = _excess(violations(network, limits)), sum(c.distance for c in longer)
                if network not in tried or rank < tried[network][0]:
                    tried[network] = rank, longer
        ranked = sorted(tried.items(), key=lambda item: item[1][0])
        if ranked and ranked[0][1][0][0] == 0:
            network, (_, changes) = ranked[0]
            return Remedy(changes, network)
        ways = [changes for _, (_, changes) in ranked[:8]]
    return None


def _excess(broken: Iterable[Violation]) -> float:
    return sum(violation.excess for violation in broken)


def _changed(
    architecture: Architecture,
    start: Mapping[str, Scalar],
    changes: Iterable[Change],
    space: SearchSpace,
) -> Architecture:
    choices = {**start, **{change.parameter: change.new for change in changes}}
    return space.architecture(
        choices, input=architecture.input, classes=architecture.output.classes
    )


def _single(
    start: Mapping[str, Scalar], way: tuple[Change, ...], space: SearchSpace
) -> Iterator[Change]:
    """Every other value of every parameter that `way` leaves alone."""
    used = {change.parameter for change in way}
    for name, domain in space.parameters.items():
        if name not in used:
            old = start[name]
            yield from (Change(name, old, new) for new in _members(domain, old) if new != old)


def _members(domain: Domain, near: Scalar) -> Iterable[Scalar]:
    """Values to try: all, or of a long range the neighbors and some further off."""
    if isinstance(domain, Choice):
        return domain.values
    if isinstance(domain, FloatRange) or isinstance(near, str):
        return ()  # dropout: no limit asks for it
    return _nearby(domain, int(near))


def _nearby(domain: IntRange, near: int) -> Iterable[int]:
    offsets = [sign * 2**power for power in range(10) for sign in (-1, 1)]
    steps = {domain.nearest(near + domain.step * offset) for offset in offsets}
    steps |= {domain.nearest(near + domain.step * offset * 3 // 2) for offset in offsets}
    return sorted(steps)
