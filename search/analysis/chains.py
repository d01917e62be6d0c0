"""What layers in sequence add to a network, kept per unit because candidates share units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

from search.analysis.graph import Structure
from search.networks.architecture import (
    Architecture,
    ArchitectureError,
    Block,
    BlockName,
    Layer,
    Unit,
)


def convolved(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Units that a window leaves of `size`; `padding` is the sum of both sides.

    Raises:
        ArchitectureError: the window is wider than the padded map.
    """
    room = size + padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise ArchitectureError(
            f"a window of {dilation * (kernel - 1) + 1} does not fit on a map of {size} "
            f"with {padding} of padding"
        )
    return room // stride + 1


def layer_parameters(layer: Layer) -> int:
    """Weights, biases, and scale and shift of the normalization."""
    return layer_weights(layer) + layer.out_channels * (layer.bias + 2 * layer.norm)


def layer_weights(layer: Layer) -> int:
    """Numbers in the filters of a convolution, bias not counted."""
    return layer.in_channels // layer.groups * layer.out_channels * layer.kernel**2


def gate_weights(unit: Unit) -> int:
    """Squeeze and excite: two 1x1 convolutions with bias, on one pooled cell."""
    return 2 * unit.out_channels * unit.squeeze_excite


def gate_parameters(unit: Unit) -> int:
    """Both convolutions of a gate with their biases; 0 without a gate."""
    biases = unit.squeeze_excite + unit.out_channels if unit.squeeze_excite else 0
    return gate_weights(unit) + biases


def classifier_parameters(architecture: Architecture) -> int:
    """Weights and bias of the classifier in O."""
    output = architecture.output
    return output.classes * (architecture.features + output.bias)


def side_after(layer: Layer, side: int) -> int:
    """Units that `layer` leaves of a map's side.

    Raises:
        ArchitectureError: the window does not fit.
    """
    return convolved(side, layer.kernel, layer.stride, 2 * layer.padding, layer.dilation)


def pooled(architecture: Architecture, size: tuple[int, ...]) -> tuple[int, ...]:
    """Cells that the pooling in O leaves of a map of `size`.

    Raises:
        ArchitectureError: the window does not fit.
    """
    output = architecture.output
    if not output.pool_kernel:
        return (1,) * len(size)
    if output.pool_kernel < min(output.pool_stride, max(size)):
        raise ArchitectureError(
            f"pooling in O: a stride of {output.pool_stride} passes over what a window of "
            f"{output.pool_kernel} does not read"
        )
    try:
        return tuple(convolved(n, output.pool_kernel, output.pool_stride, 0, 1) for n in size)
    except ArchitectureError as error:
        raise ArchitectureError(f"pooling in O: {error}") from None


class Chain(NamedTuple):
    """What layers in sequence add to a network, whatever stands before them.

    `growth` of the receptive field is in units of the map that the chain reads; `weights`
    are the multiply-adds per unit of a map that keeps its size.
    """

    layers: tuple[Layer, ...]
    parameters: int
    weights: int
    growth: int
    stride: int
    strided: int
    separable: int
    dilated: int
    starts_pointwise: bool
    ends_depthwise: bool
    transitions: int
    keeps_size: bool


# Candidates share most of their units (see `networks.operators`), so facts are kept per unit.
@lru_cache(maxsize=65_536)
def chain_of(layers: tuple[Layer, ...]) -> Chain:
    """What `layers` in sequence add; computed once for equal layers."""
    growth, stride = 0, 1
    for layer in layers:
        growth += layer.dilation * (layer.kernel - 1) * stride
        stride *= layer.stride
    return Chain(
        layers,
        parameters=sum(layer_parameters(layer) for layer in layers),
        weights=sum(layer_weights(layer) for layer in layers),
        growth=growth,
        stride=stride,
        strided=sum(layer.stride > 1 for layer in layers),
        separable=sum(a.depthwise and b.pointwise for a, b in pairwise(layers)),
        dilated=sum(layer.kernel > 1 and layer.dilation > 1 for layer in layers),
        starts_pointwise=layers[0].pointwise,
        ends_depthwise=layers[-1].depthwise,
        transitions=_transitions(layers),
        keeps_size=all(layer.keeps_size for layer in layers),
    )


def _transitions(layers: tuple[Layer, ...]) -> int:
    """The 3x3 convolutions of stride 2, dense or depthwise separable, at the end of `layers`."""
    rest, count = list(layers), 0
    while rest:
        last = rest.pop()
        if rest and rest[-1].depthwise and last.pointwise and last.stride == 1:
            last = rest.pop()
        if not _halves(last):
            break
        count += 1
    return count


def _halves(layer: Layer) -> bool:
    """A 3x3 convolution of stride 2 that is padded by no more than keeps the size at stride 1."""
    return (layer.kernel, layer.stride) == (3, 2) and layer.padding <= layer.dilation


def tail(block: Block) -> tuple[Layer, ...]:
    """The layers that a block ends in: its transition, or its last unit."""
    return block.transition or block.units[-1].layers


def stray_layers(blocks: Sequence[Block], ends: Mapping[BlockName, int]) -> tuple[str, ...]:
    """Layers with a stride, but for the last `ends` of each block."""
    names = []
    for block in blocks:
        strided = [layer for layer in block.layers if layer.stride > 1]
        names += [
            f"a {layer.kernel}x{layer.kernel} stride-{layer.stride} layer in {block.name}"
            for layer in strided[: len(strided) - ends.get(block.name, 0)]
        ]
    return tuple(names)


class Chains:
    """An architecture as the chains that it is made of, and what they add up to."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._chains: list[Chain] = []
        self._gates: list[Unit] = []
        for block in architecture.blocks:
            for unit in block.units:
                self._chains.append(chain_of(unit.layers))
                if unit.squeeze_excite:
                    self._gates.append(unit)
            if block.transition:
                self._chains.append(chain_of(block.transition))

    @property
    def parameters(self) -> int:
        total = classifier_parameters(self._architecture)
        for chain in self._chains:
            total += chain.parameters
        for unit in self._gates:
            total += gate_parameters(unit)
        return total

    @cached_property
    def feature_map(self) -> tuple[int, ...]:
        _, height, width = self._architecture.input
        for chain in self._chains:
            if not chain.keeps_size:
                for layer in chain.layers:
                    height, width = side_after(layer, height), side_after(layer, width)
        return height, width

    @cached_property
    def structure(self) -> Structure:
        strided = separable = dilated = depth = 0
        was_depthwise = False
        for chain in self._chains:
            strided += chain.strided
            separable += chain.separable + (was_depthwise and chain.starts_pointwise)
            dilated += chain.dilated
            depth += len(chain.layers)
            was_depthwise = chain.ends_depthwise
        blocks = self._architecture.blocks
        ends = {block.name: chain_of(tail(block)).transitions for block in blocks[:-1]}
        transitions = sum(ends.values())
        return Structure(
            transitions=transitions,
            strays=() if strided == transitions else stray_layers(blocks, ends),
            missing=tuple(name for name, number in ends.items() if not number),
            output_cells=math.prod(pooled(self._architecture, self.feature_map)),
            separable=separable,
            dilated=dilated,
            depth=depth,
        )
