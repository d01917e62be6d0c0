"""What a network takes on a microcontroller in int8: TensorFlow Lite Micro's arena, and the file
that lies in flash.  By arithmetic alone, from parts that candidates share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from search.analysis.arena import Buffer, aligned, planned
from search.analysis.chains import convolved
from search.analysis.device import Convolution, Program, Shared, Size
from search.networks.architecture import Architecture, Layer, Output, Unit

_TAIL = 752  # of the interpreter and its allocator; input and output as tensors
_FLASH = 464  # the root, the layouts that every network has, and the record of the image


class Memory(NamedTuple):
    """Bytes in int8: `head` holds the feature maps, `tail` the rest of the arena, `flash` is
    the file.  `lacking` are operations that TensorFlow Lite Micro has no kernel for."""

    head: int
    tail: int
    flash: int
    lacking: tuple[str, ...] = ()

    @property
    def arena(self) -> int:
        return self.head + self.tail


class Demand(NamedTuple):
    """Layers in sequence, whatever stands before them.

    Steps count from the one that writes the map which the part reads; `read` is the last that
    reads it.  The last of `buffers` is the part's result, of `size`.
    """

    buffers: tuple[Buffer, ...]
    scratch: tuple[Buffer, ...]
    read: int
    steps: int
    tail: int
    flash: int
    kinds: Counter[str]
    shared: frozenset[Shared]
    lacking: frozenset[str]
    size: Size


def memory(architecture: Architecture) -> Memory:
    """What `architecture` takes: the head to the byte, tail and flash no less than it is.

    Raises:
        ArchitectureError: a window does not fit on the map that it reads.
    """
    size: Size = architecture.input[1:]
    parts = []
    for block in architecture.blocks:
        units = (*block.units, Unit(block.transition)) if block.transition else block.units
        for unit in units:
            parts.append(_unit(unit, size))
            size = parts[-1].size
    parts.append(_output(architecture.output, architecture.features, size))
    return joined(math.prod(architecture.input), parts)


def joined(image: int, parts: Sequence[Demand]) -> Memory:
    """What `parts` in sequence take that read an image of so many bytes."""
    buffers: list[Buffer] = [(aligned(image), 0, 0)]
    scratch: list[Buffer] = []
    step = 0
    for part in parts:
        size, first, _ = buffers[-1]
        buffers[-1] = size, first, step + part.read
        buffers += [(size, step + first, step + last) for size, first, last in part.buffers]
        scratch += [(size, step + first, step + last) for size, first, last in part.scratch]
        step += part.steps
    shared: set[Shared] = set().union(*(part.shared for part in parts))
    # The kind of the first operation has number 0, which a record leaves out.
    first_kind = next(iter(parts[0].kinds), "")  # a module may have none that counts
    unnumbered = sum(part.kinds[first_kind] for part in parts)
    tail = sum(part.tail for part in parts) + sum(each.tail for each in shared)
    flash = sum(part.flash for part in parts) + sum(each.flash for each in shared)
    return Memory(
        planned([*buffers, *scratch], step),
        aligned(_TAIL + tail),
        aligned(_FLASH + flash - 4 * unnumbered, 4),
        tuple(sorted(set().union(*(part.lacking for part in parts)))),
    )


# Candidates share most of their units (see `networks.operators`), so parts are kept.
@lru_cache(maxsize=65_536)
def _unit(unit: Unit, size: Size) -> Demand:
    program = Program([(0, 0, 0)])
    result = 0
    for layer in unit.layers:
        result, size = program.convolution(result, size, _convolution(layer))
    shape = (*size, unit.out_channels)
    if unit.squeeze_excite:
        result = _gated(program, result, unit, shape)
    if unit.residual:
        program.add("ADD", shape, result, 0)
    return demand_of(program, size)


def _convolution(layer: Layer) -> Convolution:
    return Convolution(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel,) * 2,
        (layer.stride,) * 2,
        (layer.padding,) * 2,
        (layer.dilation,) * 2,
        layer.groups,
        (layer.activation,) if layer.activation else (),
    )


def _gated(program: Program, source: int, unit: Unit, shape: Size) -> int:
    channels, hidden = unit.out_channels, unit.squeeze_excite
    result = program.mean(source, channels, (1, 2), keep=True)
    reduce = Convolution(channels, hidden, activations=("relu",))
    expand = Convolution(hidden, channels, activations=("sigmoid",))
    for layer in (reduce, expand):
        result, _ = program.convolution(result, (1, 1), layer)
    return program.add("MUL", shape, source, result)


@lru_cache(maxsize=4_096)
def _output(output: Output, features: int, size: Size) -> Demand:
    program = Program([(0, 0, 0)])
    if output.pool_kernel:
        cells = (convolved(n, output.pool_kernel, output.pool_stride, 0, 1) for n in size)
        result = program.add("AVERAGE_POOL_2D", (*cells, features), 0)
    else:
        result = program.mean(0, features, (2, 1), keep=output.classifier == "conv")
    if output.classifier == "conv":
        classifier = Convolution(features, output.classes)
        result, _ = program.convolution(result, (1, 1), classifier)
        program.flat(result, output.classes)
    else:
        if output.pool_kernel:
            result = program.flat(result, features)
        program.linear(result, features, output.classes)
    return demand_of(program, (1, 1))


def demand_of(program: Program, size: Size) -> Demand:
    """All of `program`, which gives a map of `size`."""
    (_, _, read), *buffers = program.buffers
    return Demand(
        tuple(buffers),
        tuple(program.scratch),
        read,
        program.steps,
        program.tail,
        program.flash,
        program.kinds,
        frozenset(program.shared),
        frozenset(program.lacking),
        size,
    )
