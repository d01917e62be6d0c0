"""TODO: one line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from search.networks.architecture import Architecture, ArchitectureError, Block, Layer, Unit


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
    return _weights(layer) + layer.out_channels * (layer.bias + 2 * layer.norm)


def _weights(layer: Layer) -> int:
    return layer.in_channels // layer.groups * layer.out_channels * layer.kernel**2


def _gate_weights(unit: Unit) -> int:
    """Squeeze and excite: two 1x1 convolutions with bias, on one pooled cell."""
    return 2 * unit.out_channels * unit.squeeze_excite


def _gate_parameters(unit: Unit) -> int:
    biases = unit.squeeze_excite + unit.out_channels if unit.squeeze_excite else 0
    return _gate_weights(unit) + biases


def _classifier_parameters(architecture: Architecture) -> int:
    output = architecture.output
    return output.classes * (architecture.features + output.bias)


def _convolved(layer: Layer, side: int) -> int:
    return convolved(side, layer.kernel, layer.stride, 2 * layer.padding, layer.dilation)


def _pooled(architecture: Architecture, size: tuple[int, ...]) -> tuple[int, ...]:
    output = architecture.output
    if not output.pool_kernel:
        return (1,) * len(size)
    try:
        return tuple(convolved(n, output.pool_kernel, output.pool_stride, 0, 1) for n in size)
    except ArchitectureError as error:
        raise ArchitectureError(f"pooling in O: {error}") from None


class _Chain(NamedTuple):
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
    ends_in_transition: bool
    keeps_size: bool


# Candidates share most of their units (see `space._unit`), so facts are kept per unit.
@lru_cache(maxsize=65_536)
def _chain(layers: tuple[Layer, ...]) -> _Chain:
    growth, stride = 0, 1
    for layer in layers:
        growth += layer.dilation * (layer.kernel - 1) * stride
        stride *= layer.stride
    return _Chain(
        layers,
        parameters=sum(layer_parameters(layer) for layer in layers),
        weights=sum(_weights(layer) for layer in layers),
        growth=growth,
        stride=stride,
        strided=sum(layer.stride > 1 for layer in layers),
        separable=sum(a.depthwise and b.pointwise for a, b in pairwise(layers)),
        dilated=sum(layer.kernel > 1 and layer.dilation > 1 for layer in layers),
        starts_pointwise=layers[0].pointwise,
        ends_depthwise=layers[-1].depthwise,
        ends_in_transition=_ends_in_transition(layers),
        keeps_size=all(layer.keeps_size for layer in layers),
    )


def _ends_in_transition(layers: tuple[Layer, ...]) -> bool:
    """Ends in a 3x3 convolution of stride 2, dense or depthwise separable."""
    *before, last = layers
    if before and before[-1].depthwise and last.pointwise and last.stride == 1:
        last = before[-1]
    return last.kernel == 3 and last.stride == 2


def _tail(block: Block) -> tuple[Layer, ...]:
    return block.transition or block.units[-1].layers


def _strays(blocks: Sequence[Block], missing: Sequence[str]) -> tuple[str, ...]:
    """Layers with a stride beyond one at the end of each block that is not in `missing`."""
    names = []
    for block in blocks:
        strided = [layer for layer in block.layers if layer.stride > 1]
        placed = block is not blocks[-1] and block.name not in missing
        names += [
            f"a {layer.kernel}x{layer.kernel} stride-{layer.stride} layer in {block.name}"
            for layer in (strided[:-1] if placed else strided)
        ]
    return tuple(names)
