"""A network in one line, for tables and titles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from search.networks.architecture import Architecture, Block, Layer, Unit
from search.networks.network import Network
from search.networks.operators import OPERATORS, operator_of, spatial_of

LEGEND = (
    "2×sep3d2·64: two units, separable, kernel 3, dilation 2, 64 channels; "
    + ", ".join(f"{operator.glance} {name}" for name, operator in OPERATORS.items())
    + "; ↓ halves the map"
)


@singledispatch
def glance(network: Network) -> str:
    """A network in one line."""
    raise NotImplementedError(type(network))


@glance.register
def _(architecture: Architecture) -> str:
    """The blocks: units, operator and kernel, dilation, width, a `↓` a halving."""
    return "  ".join(f"{block.name} {_units(block)}" for block in architecture.blocks)


def _units(block: Block) -> str:
    words: list[str] = []
    for unit in block.units:
        word = _unit(unit)
        if words and words[-1].split("×", 1)[-1] == word:
            times = int(words[-1].split("×", 1)[0]) if "×" in words[-1] else 1
            words[-1] = f"{times + 1}×{word}"
        else:
            words.append(word)
    return " ".join([*words, *_transition(block.transition)])


def _transition(layers: Sequence[Layer]) -> list[str]:
    halvings = sum(layer.stride > 1 for layer in layers)
    if halvings:
        return ["↓" * halvings]
    words, rest = [], tuple(layers)
    while rest:
        taken = 2 if rest[0].depthwise else 1
        words.append(_unit(Unit(rest[:taken])))
        rest = rest[taken:]
    return words


def _unit(unit: Unit) -> str:
    widest, found = spatial_of(unit.layers), operator_of(unit.layers)
    kind = OPERATORS[found[0]].glance if found else "dw" if widest.depthwise else "conv"
    dilation = f"d{widest.dilation}" if widest.dilation > 1 else ""
    return f"{kind}{widest.kernel}{dilation}·{unit.out_channels}"
