"""Operations that read windows: convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from search.analysis.graph import Window
from search.analysis.reach import IDENTITY, NOTHING, Reach, compose, window
from search.analysis.tracing.calls import Call, Value, handles
from search.analysis.tracing.elementwise import gridded, regroup, resized, stretched
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.layout import (
    Digit,
    Dim,
    along,
    axes,
    channels,
    length,
    moving,
)

MIXING = ("conv", "pointwise", "transposed", "filter")


def windowed(
    call: Call, source: Value, rank: int, how: Sequence[Reach], kind: str, shown: Window
) -> Value:
    """The last `rank` dimensions read at `how`, channels before them taken together; positions
    in the batch stay where they are."""
    *outer, mixed = source.dims[:-rank]
    if not moving(mixed) and all(way == IDENTITY for way in how):
        return _in_place(call, source, rank, kind, shown)
    batch = {place: IDENTITY for place, dim in enumerate(outer) if moving(dim)}
    inner_axes = axes(map(moving, source.dims[-rank:]))
    if any(moving(outer[at]) != outer[at] for at in batch):
        raise LayoutError("positions stand in the batch dimension beside copies")
    if axes(outer) & inner_axes:
        return _in_parts(call, source, rank, how, kind, shown)
    if any(len(axes([moving(dim)])) > 1 for dim in source.dims[-rank:]):
        return _in_line(call, source, rank, how, kind, shown)
    ways = batch | dict(zip(range(-rank, 0), how, strict=True))
    holders, base = regroup(call, source, [source.dims[place] for place in ways], (mixed,))
    if None in base:
        call.note("a layer over positions that stand as channels reads the whole image")
    size = [1] * call.builder.rank
    dims: list[Dim] = [channels(n) for n in call.shape]
    for (place, way), axis in zip(ways.items(), holders, strict=True):
        if axis is not None:
            size[axis] = call.shape[place]
            inner = base[axis]
            base[axis] = None if inner is None else compose(way, inner, size[axis])
            dims[place] = along(axis, size[axis])
    on_axes = _on_axes(shown, holders[-rank:], call.builder.rank)
    result = call.add([(source.node, base)], size, dims, kind, on_axes)
    _tell_apart(call, source, rank, result, kind in MIXING and shown.groups == 1)
    return result


def _in_parts(
    call: Call, source: Value, rank: int, how: Sequence[Reach], kind: str, shown: Window
) -> Value:
    """The batch holds parts of the map, each with borders of its own, beyond which nothing is
    read."""
    *outer, mixed = source.dims[:-rank]
    if kind not in (*MIXING, "depthwise", "maxpool", "avgpool") or moving(mixed):
        raise LayoutError("positions stand in the batch dimension, in parts")
    inner, counts = [_only(dim) for dim in source.dims[-rank:]], call.shape[-rank:]
    size, base, parts = list(call.size(source)), [IDENTITY] * call.builder.rank, list(outer)
    for way, (axis, _, n), count in zip(how, inner, counts, strict=True):
        told = [digit for dim in outer for digit in dim if digit.axis == axis]
        if n * length(told) != size[axis] or any(digit.weight % n for digit in told):
            raise LayoutError("the parts of the map in the batch dimension overlap or have gaps")
        size[axis] = count * length(told)
        base[axis] = _bounded(way, n, count) if told else way
        parts = [tuple(_scaled(d, count, n) if d in told else d for d in dim) for dim in parts]
    on_axes = _on_axes(shown, [digit.axis for digit in inner], call.builder.rank)
    dims = [along(digit.axis, count) for digit, count in zip(inner, counts, strict=True)]
    new = (*parts, channels(call.shape[-rank - 1]), *dims)
    result = call.add([(source.node, base)], size, new, kind, on_axes)
    _tell_apart(call, source, rank, result, kind in MIXING and shown.groups == 1)
    return result


def _in_line(
    call: Call, source: Value, rank: int, how: Sequence[Reach], kind: str, shown: Window
) -> Value:
    """Rows stand one behind the other: windows lie within them, one beside the other, or reach
    from one into the next and so read columns from the last to the first, all of them."""
    size, moves = list(call.size(source)), [at for at, d in enumerate(source.dims) if moving(d)]
    place = moves[0] - len(source.dims)
    dim, way, count = source.dims[place], how[place], call.shape[place]
    rows = all(digit == (digit.axis, 1, size[digit.axis]) for digit in dim)
    if not rows or len(dim) != 2 or len(moves) > 1 or length(dim) != math.prod(size):
        raise LayoutError("positions of several axes stand in one dimension")
    (axis, _, height), (other, _, width) = dim
    base: list[Reach | None] = [IDENTITY] * len(size)
    if way == window(way.shift, way.shift) and width % way.shift == 0:
        base[other], size[other] = way, width // way.shift
        new = along(axis, height) + along(other, size[other])
    else:
        ends = (_rows_read(*way.at(unit), width) for unit in range(count))
        if not any(0 <= first < last < height for first, last in ends):
            raise LayoutError("positions of several axes stand in one dimension")
        call.note("windows that reach from the end of one row into the next read all columns")
        base[axis], base[other] = compose(way, Reach(((0, 1),) * width, 1), count), None
        size[axis], size[other], new = count, 1, along(axis, count)
    dims = [new if at == moves[0] else channels(n) for at, n in enumerate(call.shape)]
    on_axes = _on_axes(shown, [other if at == place else None for at in range(-rank, 0)], len(size))
    result = call.add([(source.node, base)], size, dims, kind, on_axes)
    _tell_apart(call, source, rank, result, kind in MIXING and shown.groups == 1)
    return result


def _rows_read(first: int, mask: int, width: int) -> tuple[int, int]:
    """The first and the last row of a window; of one with gaps only the first."""
    last = first if mask & (mask + 1) else first + mask.bit_length() - 1
    return first // width, last // width


def _only(dim: Dim) -> Digit:
    """The digit of a dimension that runs along neighbouring positions of one axis."""
    if len(dim) != 1 or dim[0].axis < 0 or dim[0].weight != 1:
        raise LayoutError("positions stand in the batch dimension, in parts")
    return dim[0]


def _scaled(digit: Digit, count: int, n: int) -> Digit:
    return digit._replace(weight=digit.weight // n * count)


def _bounded(way: Reach, n: int, count: int) -> Reach:
    """What `count` units of a part read of its `n` positions, part by part."""
    phases = []
    for first, mask in map(way.at, range(count)):
        read = [p for p in range(first, first + mask.bit_length()) if mask >> (p - first) & 1]
        kept = [position for position in read if 0 <= position < n]
        start = min(kept, default=0)
        phases.append((start, sum(1 << (position - start) for position in kept)))
    return Reach(tuple(phases), n)


def _in_place(call: Call, source: Value, rank: int, kind: str, shown: Window) -> Value:
    """Windows of one cell: each position by itself, so that it matters not where they stand."""
    new = resized(source, len(source.dims) - rank - 1, channels(call.shape[-rank - 1]))
    here = [IDENTITY] * call.builder.rank
    cell = replace(Window.cell(call.builder.rank), groups=shown.groups)
    result = call.add([(source.node, here)], call.size(source), new.dims, kind, cell)
    _tell_apart(call, source, rank, result, kind in MIXING and shown.groups == 1)
    return result


def _tell_apart(call: Call, source: Value, rank: int, result: Value, mixing: bool) -> None:
    """Whether the channels of `result` see the same: all do what one reads that mixes them."""
    *outer, mixed = source.dims[:-rank]
    apart = call.builder.apart
    if mixing and all(moving(dim) == dim for dim in (*outer, *source.dims[-rank:])):
        apart.pop(result.node, None)
    elif moving(mixed) and not mixing:
        apart[result.node] = apart.get(result.node, frozenset()) | {source.node, result.node}


def _on_axes(shown: Window, holders: list[int | None], rank: int) -> Window:
    """The window with an entry per spatial axis of the image instead of per dimension."""
    if len(holders) == rank and not any(holders[i] not in (None, i) for i in range(rank)):
        return shown
    place = {axis: index for index, axis in enumerate(holders) if axis is not None}
    kernel, stride, padding, dilation = [1] * rank, [1] * rank, [(0, 0)] * rank, [1] * rank
    for axis, index in place.items():
        kernel[axis], stride[axis] = shown.kernel[index], shown.stride[index]
        padding[axis], dilation[axis] = shown.padding[index], shown.dilation[index]
    return Window(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), shown.groups)


def every(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """One entry per dimension of what torch lets be written once."""
    entries = [value] if isinstance(value, int) else list(value)
    return tuple(entries * rank if len(entries) == 1 else entries)


@handles("convolution")
def _convolution(call: Call) -> Value:
    weight, made = call["weight"], call.optional("weight")
    if made and made.moves:
        raise LayoutError("its weights are computed from places of the image")
    rank, kernel = weight.dim() - 2, tuple(weight.shape[2:])
    stride, padding, dilation = (
        every(call[name], rank) for name in ("stride", "padding", "dilation")
    )
    if call["transposed"]:
        how = [transposed(*entry) for entry in zip(kernel, stride, padding, dilation, strict=True)]
        kind = "transposed"
    else:
        how = [window(*entry) for entry in zip(kernel, stride, padding, dilation, strict=True)]
        kind = _kind(kernel, call["groups"], weight.shape[1])
    if not (made or call.learned(weight)):
        kind = "filter"
        call.note(f"the {weight.numel():,} weights of this filter are no parameters")
    both = tuple((p, p) for p in padding)
    shown = Window(kernel, stride, both, dilation, call["groups"])
    filtered = windowed(call, call.value("input"), rank, how, kind, shown)
    return _gated(call, filtered, made) if made else filtered


def _gated(call: Call, filtered: Value, made: Value) -> Value:
    """What weights that were made from the image add to what they filter: all that they saw,
    as a gate does."""
    size = call.size(filtered)
    both = [(value.node, stretched(call.size(value), size)) for value in (filtered, made)]
    return call.add(both, size, filtered.dims)


def _kind(kernel: tuple[int, ...], groups: int, per_group: int) -> str:
    wide = max(kernel) > 1
    if wide and groups > 1 and per_group == 1:
        return "depthwise"
    return "conv" if wide or groups > 1 else "pointwise"


def transposed(kernel: int, stride: int, padding: int, dilation: int) -> Reach:
    """Input m adds to outputs m * stride - padding + tap * dilation."""
    phases = []
    for phase in range(stride):
        reached = [phase + padding - tap * dilation for tap in range(kernel)]
        sources = [position // stride for position in reached if position % stride == 0]
        first = min(sources, default=0)
        phases.append((first, sum(1 << (source - first) for source in sources)))
    return Reach(tuple(phases), 1)


@handles("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d")
def _pool(call: Call) -> Value:
    rank = 3 if "3d" in call.name else 2
    kernel = every(call["kernel_size"], rank)
    stride = every(call["stride"] or kernel, rank)
    padding = every(call["padding"], rank)
    dilation = every(call.arguments.get("dilation", 1), rank)
    how = [window(*entry) for entry in zip(kernel, stride, padding, dilation, strict=True)]
    shown = Window(kernel, stride, tuple((p, p) for p in padding), dilation)
    source = gridded(call, call.value("self"))
    pooled = windowed(call, source, rank, how, f"{call.name[:3]}pool", shown)
    call.builder.make_global(pooled.node)
    return pooled


@handles(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"
)
def _adaptive_pool(call: Call) -> Value:
    """Cell i of n reads from floor(i * size / n) up to ceil((i + 1) * size / n)."""
    rank = 3 if "3d" in call.name else 2
    source = gridded(call, call.value("self"))
    have = [length(dim) for dim in source.dims[-rank:]]
    cells = call.shape[-rank:]
    how = [
        NOTHING if want == 1 else _cells(size, want) for size, want in zip(have, cells, strict=True)
    ]
    if all(want == 1 for want in cells):
        return windowed(call, source, rank, how, "", Window.cell(rank))
    kernel = tuple(-(-size // want) for size, want in zip(have, cells, strict=True))
    stride = tuple(max(1, size // want) for size, want in zip(have, cells, strict=True))
    ones = (1,) * rank
    shown = Window(kernel, stride, ((0, 0),) * rank, ones)
    pooled = windowed(call, source, rank, how, "adaptive pool", shown)
    call.builder.grids[pooled.node] = source.node
    return pooled


def _cells(size: int, cells: int) -> Reach:
    common = math.gcd(size, cells)
    phases = []
    for cell in range(cells // common):
        first, end = cell * size // cells, -(-(cell + 1) * size // cells)
        phases.append((first, (1 << (end - first)) - 1))
    return Reach(tuple(phases), size // common)
