"""Why a network is as large as it is, what in it is wasteful, and the nearest legal one.

All of it is data about an `Analysis` or an `Architecture`; nothing here judges: advice is
no rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from constraints import Limits, Violation, violations
from search.analysis.facts import Facts
from search.domains import Choice, Domain, FloatRange, IntRange, Scalar
from search.networks.architecture import (
    BLOCK_NAMES,
    Activation,
    Architecture,
    ArchitectureError,
    Block,
    Layer,
    Unit,
)
from search.networks.operators import OPERATORS, operator_of, spatial_of
from space import SearchSpace

# What is tried for an architecture that comes without a study.
ANY_SPACE = SearchSpace.model_validate(
    {
        "block": {
            "depth": {"low": 0, "high": 6},
            "width": {"low": 4, "high": 512, "step": 4},
            "operator": list(OPERATORS),
            "kernel": [3, 5, 7],
            "dilation": [1, 2, 3, 4],
            "residual": [False, True],
            "expansion": [2, 3, 4],
            "squeeze_excite": [0, 4, 8],
            "transition": {
                "halvings": [0, 1, 2],
                "operator": ["dense", "separable"],
                "dilation": [1, 2],
                "bottleneck": [False, True],
            },
        },
        "C4": {"depth": {"low": 1, "high": 6}},
        "head": [0, 64, 128, 256],
        "activation": list(get_args(Activation)),
        "dropout": {"low": 0.0, "high": 0.9},
        "classifier": ["linear", "conv"],
    }
)


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
        field = min(value for value in summary.receptive_field if value is not None)
        done = ", ".join(map(str, self.changes))
        return f"{done}: RF {field}, {summary.parameters:,} parameters"


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


def choices_of(
    architecture: Architecture, space: SearchSpace = ANY_SPACE
) -> dict[str, Scalar] | None:
    """The choices in `space` that mean `architecture`, None where none do."""
    if not all(block.transition for block in architecture.blocks[:-1]):
        return None
    for headed in (False, True):
        read = dict(_read(architecture, headed))
        choices = {name: read[name] for name in space.parameters}
        try:
            meant = space.architecture(
                choices, input=architecture.input, classes=architecture.output.classes
            )
        except ArchitectureError:  # a C4 without units and without a head
            continue
        if meant == architecture:
            return choices
    return None


def _read(architecture: Architecture, headed: bool) -> Iterator[tuple[str, Scalar]]:
    """One value per choice, as far as the layers show it; else what has no effect."""
    layers = [layer for block in architecture.blocks for layer in block.layers]
    last = architecture.blocks[-1].units[-1:]
    yield "activation", next((a for a in (layer.activation for layer in layers) if a), "relu")
    yield "dropout", max(layer.dropout for layer in layers)
    yield "classifier", architecture.output.classifier
    yield "head", last[0].out_channels if headed and last else 0
    channels, spread = architecture.input[0], 1
    for block in architecture.blocks:
        units = block.units[:-1] if headed and block.name == BLOCK_NAMES[-1] else block.units
        yield from _read_block(block, units, channels)
        if block.transition:
            halved = any(layer.stride > 1 for layer in block.transition)
            spread *= 1 if halved else 2
            yield from _read_transition(block, 1 if halved else spread)
            channels = block.transition[-1].out_channels


def _read_block(
    block: Block, units: tuple[Unit, ...], channels: int
) -> Iterator[tuple[str, Scalar]]:
    first = units[0].layers if units else (Layer(channels, channels, padding=1),)
    spatial = spatial_of(first)
    operator, form = operator_of(first) or ("dense", None)
    width = units[0].out_channels if units else channels
    gate = units[0].squeeze_excite if units else 0
    yield f"{block.name}.depth", len(units)
    yield f"{block.name}.width", width
    yield f"{block.name}.operator", operator
    yield f"{block.name}.kernel", spatial.kernel
    yield f"{block.name}.dilation", spatial.dilation
    yield f"{block.name}.residual", any(unit.residual for unit in units)
    yield f"{block.name}.expansion", max(2, form.hidden // form.channels) if form else 2
    yield f"{block.name}.squeeze_excite", width // gate if gate else 0


def _read_transition(block: Block, spread: int) -> Iterator[tuple[str, Scalar]]:
    first, last = block.transition[0], block.transition[-1]
    spatial = next((layer for layer in block.transition if layer.kernel > 1), last)
    separable = last.kernel == 1
    yield f"{block.name}.transition.halvings", sum(layer.stride > 1 for layer in block.transition)
    yield f"{block.name}.transition.operator", "separable" if separable else "dense"
    yield f"{block.name}.transition.dilation", max(1, spatial.dilation // spread)
    yield f"{block.name}.transition.bottleneck", first.kernel == 1
