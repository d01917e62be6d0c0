"""The choices of a space that mean a given network, read off its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from search.domains import Choice, FloatRange, IntRange, Scalar, Setting
from search.networks.architecture import (
    BLOCK_NAMES,
    Activation,
    Architecture,
    ArchitectureError,
    Block,
    Layer,
    Unit,
)
from search.networks.network import Network
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


class ForeignError(ValueError):
    """A space does not express a network; says which of its choices does not fit."""


def choices_of(network: Network, space: SearchSpace = ANY_SPACE) -> dict[str, Scalar] | None:
    """The choices for `space` that mean `network`, within its ranges or not; None where none
    do."""
    for read in _readings(network, space):
        choices = {name: read[name] for name in space.parameters}
        if _meant(choices, network, space) == network:
            return choices
    return None


def expressed(network: Network, space: SearchSpace) -> dict[str, Scalar]:
    """The choices in `space` that mean `network`; those without effect are any.

    Raises:
        ForeignError: none do.
    """
    faults: list[list[str]] = []
    for read in _readings(network, space):
        choices = {name: _inside(read[name], entry) for name, entry in space.settings.items()}
        if _meant(choices, network, space) == network:
            return {name: choices[name] for name in space.parameters}
        faults.append(
            [
                f"{name} is {read[name]}, but the space has {_in_words(space.settings[name])}"
                for name, choice in choices.items()
                if _meant({**read, name: choice}, network, space) != network
            ]
        )
    if not faults:
        raise ForeignError(_odd(network))
    fewest = min(faults, key=len)
    raise ForeignError("; ".join(fewest))


def _inside(value: Scalar, entry: Setting) -> Scalar:
    """`value` where `entry` allows it, else what it does allow."""
    if isinstance(entry, Choice | IntRange | FloatRange):
        return value if value in entry else entry.middle
    return entry


def _in_words(entry: Setting) -> str:
    if isinstance(entry, Choice):
        return " or ".join(map(str, entry.values))
    if isinstance(entry, IntRange | FloatRange):
        step = getattr(entry, "step", 1)
        steps = f" in steps of {step}" if step > 1 else ""
        return f"{entry.low} to {entry.high}{steps}"
    return str(entry)


def _odd(network: Network) -> str:
    """What in a network no choices of any space make."""
    if not isinstance(network, Architecture):
        return "it is a module of somebody's own"
    read = dict(_read(network, headed=False))
    lacking = [block.name for block in network.blocks[:-1] if not block.transition]
    if lacking:
        return f"{lacking[0]} does not end in a transition"
    made = _meant(read, network, ANY_SPACE)
    for own, other in zip(network.blocks, made.blocks if made else (), strict=False):
        if own.units != other.units:
            return f"the units of {own.name} are not of one kind and width"
        if own.transition != other.transition:
            return f"{own.name} ends in no transition that a space has"
    return "its output is none that a space has"


def _readings(network: Network, space: SearchSpace) -> Iterator[dict[str, Scalar]]:
    """The ways to read choices off a network that mean it: without and with a head."""
    if not isinstance(network, Architecture):
        return
    if not all(block.transition for block in network.blocks[:-1]):
        return
    for headed in (False, True):
        read = dict(_read(network, headed))
        if _meant(read, network, space) == network:
            yield read


def _meant(
    choices: Mapping[str, Scalar], network: Network, space: SearchSpace
) -> Architecture | None:
    """The network that `choices` mean on the images of `network`, None where none is."""
    try:
        return space.architecture(choices, input=network.input, classes=network.classes)
    except ArchitectureError:  # a C4 without units and without a head
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
