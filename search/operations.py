"""What each torch operation reads, as nodes of the graph.

A handler gets a `Call` and gives the `Value` of the output: which node holds it, and where
the node's positions stand in the tensor.  It raises `LayoutError` for an arrangement that
it cannot follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

from torch import Tensor

from constraints import FIRST, IDENTITY, NOTHING, Node, Reach, Window, compose, window
from search.layout import (
    TOKENS,
    Digit,
    Dim,
    Dims,
    LayoutError,
    along,
    axes,
    channels,
    length,
    moving,
    reads,
    reshape,
    same,
)

Reads = list[Reach | None]


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the image."""

    node: int
    dims: Dims

    @property
    def moves(self) -> bool:
        """Some dimension runs over positions."""
        return any(moving(dim) for dim in self.dims)


@dataclass
class Builder:
    """The graph so far.

    `grids` maps nodes of adaptive pooling to what they pool, `parts` concatenated channels
    to what they were: the value as it came out, the dimension, each part and its channels.
    """

    nodes: list[Node]
    notes: list[str] = field(default_factory=list)
    grids: dict[int, int] = field(default_factory=dict)
    parts: dict[int, tuple[Value, int, list[tuple[Value | None, int]]]] = field(
        default_factory=dict
    )
    _whole: set[int] = field(default_factory=set)

    @property
    def rank(self) -> int:
        return len(self.nodes[0].size)

    def whole(self, value: Value) -> bool:
        """Every axis is seen as a whole, so that it no longer matters what stands where."""
        return value.node in self._whole

    def append(self, node: Node) -> int:
        """Adds a node and gives its index."""
        self.nodes.append(node)
        for source, how in zip(node.inputs, node.reads, strict=True):
            blind = all(reads is None for reads in how)
            through = source in self._whole and not all(r is NOTHING for r in how)
            if blind or through:
                self._whole.add(len(self.nodes) - 1)
        return len(self.nodes) - 1


@dataclass
class Call:
    """One operation: its name and arguments by name, and the output's tensor or tensors."""

    builder: Builder
    where: str
    name: str
    arguments: dict[str, Any]
    out: Any
    macs: int
    find: Callable[[Tensor], Value | None]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first output."""
        first = self.out if isinstance(self.out, Tensor) else self.out[0]
        return tuple(first.shape)

    def value(self, name: str) -> Value:
        """The value of an argument that must depend on the image alone here."""
        found = self.optional(name)
        if found is None:
            raise LayoutError(f"its argument {name!r} does not depend on the image, others do")
        return found

    def optional(self, name: str) -> Value | None:
        argument = self.arguments.get(name)
        return self.find(argument) if isinstance(argument, Tensor) else None

    def values(self) -> Iterator[Value]:
        """Of all arguments that depend on the image."""
        for argument in self.arguments.values():
            for part in argument if isinstance(argument, list | tuple) else [argument]:
                found = self.find(part) if isinstance(part, Tensor) else None
                if found is not None:
                    yield found

    def size(self, value: Value) -> tuple[int, ...]:
        """Of the map that holds `value`, per spatial axis."""
        return self.builder.nodes[value.node].size

    def add(
        self,
        inputs: Sequence[tuple[int, Sequence[Reach | None]]],
        size: Sequence[int],
        dims: Sequence[Dim],
        kind: str = "",
        window: Window | None = None,
    ) -> Value:
        """A new node that reads `inputs`, and the value that it holds."""
        if 0 in size:
            raise LayoutError("it leaves a map without positions")
        index = self.builder.append(
            Node(
                self.where,
                kind,
                tuple(node for node, _ in inputs),
                tuple(tuple(how) for _, how in inputs),
                max(1, math.prod(self.shape) // math.prod(size)),
                tuple(size),
                window,
                macs=self.macs if kind else 0,
            )
        )
        return Value(index, tuple(dims))

    def note(self, text: str) -> None:
        self.builder.notes.append(f"{self.where}: {text}")


Handler = Callable[[Call], Value] | Callable[[Call], list[Value]]
HANDLERS: dict[str, Handler] = {}
# These look at the shape of their input, not at what it holds.
SHAPE_ONLY = frozenset(
    f"{kind}_like" for kind in ("empty", "zeros", "ones", "full", "rand", "randn")
) | {"new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"}
_H = TypeVar("_H", Callable[[Call], Value], Callable[[Call], list[Value]])


def _handles(*names: str) -> Callable[[_H], _H]:
    def register(handler: _H) -> _H:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


# ------------------------------------------------------------------ element by element


@_handles(
    # Without torch's tag `pointwise`, but each output element reads its own index alone.
    "hardswish", "_prelu_kernel", "_to_copy", "detach", "alias", "lift_fresh", "masked_fill",
    "log_sigmoid_forward", "rrelu_with_noise_functional", "native_dropout", "fill",
    # Statistics over space are global averages, which do not count.
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "native_group_norm",
)  # fmt: skip
def elementwise(call: Call) -> Value:
    """Also the handler of everything tagged `pointwise`."""
    return _join(call, list(call.values()), call.shape)


@_handles("native_layer_norm", "_fused_rms_norm")
def _layer_norm(call: Call) -> Value:
    """Statistics over space do not count, but channels are mixed in each position."""
    value = call.value("input")
    return _mixed(call, value, value.dims)


@_handles("glu")
def _gate(call: Call) -> Value:
    value = call.value("self")
    if moving(value.dims[call["dim"]]):
        raise LayoutError("it multiplies one half of the positions by the other")
    new = _resized(value, call["dim"] % len(value.dims), channels(call.shape[call["dim"]]))
    return _mixed(call, value, new.dims)


@_handles("copy")
def _copy(call: Call) -> Value:
    """Overwrites `self`, which so does not count."""
    return _join(call, [call.value("src")], call.shape)


def _join(call: Call, values: list[Value], shape: Sequence[int]) -> Value:
    """Values read together, index by index, after broadcasting to `shape`."""
    values = [_broadcast(value, shape) for value in values]
    if all(value == values[0] for value in values):
        return values[0]
    if not _agree(values):
        values = [_plain(call, value) for value in values]
        if not _agree(values):
            raise LayoutError("its inputs hold their positions in different orders")
    dims = [_leading(column) for column in zip(*(value.dims for value in values), strict=True)]
    sizes = [call.size(value) for value in values]
    size = tuple(max(column) for column in zip(*sizes, strict=True))
    _require_once(dims, size)
    return call.add(
        [(value.node, _stretched(own, size)) for value, own in zip(values, sizes, strict=True)],
        size,
        dims,
    )


def _broadcast(value: Value, shape: Sequence[int]) -> Value:
    dims = ((),) * (len(shape) - len(value.dims)) + value.dims
    return Value(
        value.node,
        tuple(
            channels(size) if length(dim) == 1 < size else dim
            for dim, size in zip(dims, shape, strict=True)
        ),
    )


def _agree(values: list[Value]) -> bool:
    return all(
        same(a, b)
        for column in zip(*(value.dims for value in values), strict=True)
        for a in column
        for b in column
        if moving(a) and moving(b)
    )


def _leading(column: Sequence[Dim]) -> Dim:
    """The dimension that says most: of positions, of one position, of none."""
    return max(column, key=lambda dim: (bool(moving(dim)), bool(axes([dim]))))


def _stretched(own: Sequence[int], size: Sequence[int]) -> Reads:
    result: Reads = []
    for have, want in zip(own, size, strict=True):
        if have not in (1, want):
            raise LayoutError(f"a map of {list(own)} meets one of {list(size)}")
        result.append(IDENTITY if have == want else FIRST)
    return result


def _require_once(dims: Sequence[Dim], size: Sequence[int]) -> None:
    for axis, n in enumerate(size):
        run = length(digit for dim in dims for digit in dim if digit.axis == axis)
        if run > n:
            raise LayoutError("positions are combined with other positions of the same axis")


def _plain(call: Call, value: Value) -> Value:
    """The same, with each spatial axis in a dimension of its own."""
    holders, base = _regroup(call, value, value.dims, ())
    dims = list(value.dims)
    size = [1] * call.builder.rank
    for dim, axis in enumerate(holders):
        if axis is not None:
            size[axis] = length(value.dims[dim])
            dims[dim] = along(axis, size[axis])
    return call.add([(value.node, base)], size, dims)


def _regroup(
    call: Call, value: Value, kept: Sequence[Dim], mixed: Sequence[Dim], full: Reach | None = None
) -> tuple[list[int | None], Reads]:
    """How the dimensions `kept`, one axis each, read the map once `mixed` are united.

    Gives the axis of each kept dimension and the reads per axis; `full` where all of an
    axis is mixed.
    """
    if TOKENS in axes(kept):
        raise LayoutError("positions stand in a sequence that is no grid any more")
    holders = [_axis(dim) for dim in kept]
    if TOKENS in axes(mixed):
        return holders, [full] * call.builder.rank
    base: Reads = []
    for axis, n in enumerate(call.size(value)):
        united = [digit for dim in mixed for digit in dim if digit.axis == axis]
        if holders.count(axis) > 1:
            raise LayoutError("positions of one axis stand in several dimensions")
        if axis in holders:
            base.append(reads(kept[holders.index(axis)], axis, united))
        elif n == 1:
            base.append(IDENTITY)
        elif length(united) == n:
            base.append(full)
        else:
            raise LayoutError("positions stand in the batch dimension")
    return holders, base


def _axis(dim: Dim) -> int | None:
    """The only spatial axis of a dimension."""
    found = axes([moving(dim)]) or axes([dim])
    if len(found) > 1 or TOKENS in found:
        raise LayoutError("positions of several axes stand in one dimension")
    return found.pop() if found else None


# --------------------------------------------------------------------- rearrangements


@_handles("view", "_unsafe_view", "_reshape_alias")
def _view(call: Call) -> Value:
    value = call.value("self")
    return Value(value.node, reshape(value.dims, call.shape))


@_handles("as_strided")
def _as_strided(call: Call) -> Value:
    value, tensor = call.value("self"), call["self"]
    same_shape = tuple(map(length, value.dims)) == call.shape
    # Equal shapes are not enough: other strides transpose, another offset shifts.
    same_memory = (tuple(call["stride"]), call["storage_offset"] or 0) == (
        tensor.stride(),
        tensor.storage_offset(),
    )
    if not (same_shape and same_memory):
        raise LayoutError("it addresses memory, not positions")
    return value


@_handles("unsqueeze")
def _unsqueeze(call: Call) -> Value:
    value = call.value("self")
    dims = list(value.dims)
    dims.insert(call["dim"] % (len(dims) + 1), ())
    return Value(value.node, tuple(dims))


@_handles("squeeze")
def _squeeze(call: Call) -> Value:
    value = call.value("self")
    rank = len(value.dims)
    asked = call.arguments.get("dim", range(rank))
    asked = {dim % rank for dim in ([asked] if isinstance(asked, int) else asked)}
    kept = (d for i, d in enumerate(value.dims) if i not in asked or length(d) > 1)
    return Value(value.node, tuple(kept))


@_handles("permute", "transpose", "t")
def _permute(call: Call) -> Value:
    value = call.value("self")
    order = list(range(len(value.dims)))
    if call.name == "permute":
        order = [dim % len(order) for dim in call["dims"]]
    else:
        a, b = (call["dim0"], call["dim1"]) if call.name == "transpose" else (0, -1)
        order[a], order[b] = order[b], order[a]
    dims = tuple(value.dims[dim] for dim in order)
    whole, _, _ = call.builder.parts.get(value.node, (value, 0, []))
    return Value(value.node, dims) if value == whole else _mixed(call, value, dims)


@_handles("expand")
def _expand(call: Call) -> Value:
    return _broadcast(call.value("self"), call.shape)


@_handles("repeat")
def _repeat(call: Call) -> Value:
    value = call.value("self")
    own = ((),) * (len(call.shape) - len(value.dims)) + value.dims
    dims = []
    for dim, size in zip(own, call.shape, strict=True):
        if length(dim) != size and moving(dim):
            raise LayoutError("positions are repeated")
        dims.append(dim if length(dim) == size else channels(size))
    return Value(value.node, tuple(dims))


@_handles("pixel_shuffle", "pixel_unshuffle", "native_channel_shuffle")
def _shuffle(call: Call) -> Value:
    value = call.value("self")
    *batch, c, h, w = value.dims
    if "channel" in call.name:
        return _mixed(call, value, value.dims)
    if call.name == "pixel_shuffle":
        r = call["upscale_factor"]
        (outer, down, right), rows, columns = reshape((c,), (length(c) // r**2, r, r)), h, w
        return Value(value.node, (*batch, outer, rows + down, columns + right))
    r = call["downscale_factor"]
    (rows, down), (columns, right) = (reshape((d,), (length(d) // r, r)) for d in (h, w))
    return Value(value.node, (*batch, c + down + right, rows, columns))


# ------------------------------------------------------------------- parts and borders


def _take(call: Call, value: Value, dim: int, how: Reach, count: int) -> Value:
    """`count` indices of one dimension, read at `how`."""
    dims = list(value.dims)
    dim %= len(dims)
    found = axes([moving(dims[dim])]) or axes([dims[dim]])
    if not found:
        return _take_channels(call, value, dim, how, count)
    if len(found) > 1 or TOKENS in found:
        dims[dim] = (Digit(TOKENS, 1, count),)
        return Value(value.node, tuple(dims))
    axis = found.pop()
    if axis in axes(dims[:dim] + dims[dim + 1 :]):
        raise LayoutError("it cuts positions that stand in several dimensions")
    size, base = list(call.size(value)), [IDENTITY] * call.builder.rank
    base[axis] = compose(how, reads(dims[dim], axis, ()), count)
    size[axis], dims[dim] = count, along(axis, count)
    return call.add([(value.node, base)], size, dims)


@_handles("slice")
def _slice(call: Call) -> Value:
    value, dim = call.value("self"), call["dim"]
    have, count = length(value.dims[dim]), call.shape[dim]
    start, step = call["start"] or 0, call["step"]
    start = max(0, start + have if start < 0 else start)
    if count == have:
        return value
    return _take(call, value, dim, window(1, step, -start), count)


@_handles("select")
def _select(call: Call) -> Value:
    value, dim = call.value("self"), call["dim"] % len(call.value("self").dims)
    index = call["index"] % length(value.dims[dim])
    return _dropped(_take(call, value, dim, window(1, 1, -index), 1), dim)


def _dropped(value: Value, dim: int) -> Value:
    return Value(value.node, value.dims[:dim] + value.dims[dim + 1 :])


@_handles("split", "split_with_sizes", "unbind", "unsafe_split", "unsafe_split_with_sizes")
def _split(call: Call) -> list[Value]:
    value, dim = call.value("self"), call["dim"] % len(call.value("self").dims)
    result, start = [], 0
    for part in call.out:
        count = 1 if call.name == "unbind" else part.shape[dim]
        taken = _take(call, value, dim, window(1, 1, -start), count)
        result.append(_dropped(taken, dim) if call.name == "unbind" else taken)
        start += count
    return result


@_handles("flip")
def _flip(call: Call) -> Value:
    value = call.value("self")
    for dim in call["dims"]:
        n = call.shape[dim]
        how = Reach(tuple((n - 1 - i, 1) for i in range(n)), 0, bounded=True)
        value = _take(call, value, dim, how, n)
    return value


@_handles("roll")
def _roll(call: Call) -> Value:
    """A shift by the shorter way; what comes in at the far end is a border, as in padding."""
    value = call.value("self")
    for dim, shift in zip(call["dims"], call["shifts"], strict=True):
        n = call.shape[dim]
        value = _take(call, value, dim, window(1, 1, (shift + n // 2) % n - n // 2), n)
    return value


@_handles("index_select", "index")
def _index(call: Call) -> Value:
    """Picks channels; picking positions is refused, for the picks have no values here."""
    value = call.value("self")
    if call.name == "index_select":
        picked = [call["dim"] % len(value.dims)]
    else:
        picked = [i for i, index in enumerate(call["indices"]) if index is not None]
    if len(picked) != 1 or len(call.shape) != len(value.dims) or moving(value.dims[picked[0]]):
        raise LayoutError("it picks positions by a table")
    new = _resized(value, picked[0], channels(call.shape[picked[0]]))
    return _mixed(call, value, new.dims)


@_handles(
    "constant_pad_nd",
    *(f"{kind}_pad{rank}d" for kind in ("reflection", "replication") for rank in (1, 2, 3)),
)
def _pad(call: Call) -> Value:
    """What stands in the border is taken for nothing, as in every receptive field."""
    value = call.value("self")
    amounts = call["pad" if call.name == "constant_pad_nd" else "padding"]
    for dim, before in zip(range(-1, -len(value.dims) - 1, -1), amounts[::2], strict=False):
        if any(amounts[-2 * dim - 2 : -2 * dim]):
            value = _take(call, value, dim, window(1, 1, before), call.shape[dim])
    return value


@_handles("cat", "stack")
def _concatenate(call: Call) -> Value:
    tensors = call["tensors"]
    dim = call.arguments.get("dim", 0) % len(call.shape)
    pieces = [(call.find(tensor), tensor.shape) for tensor in tensors]
    if call.name == "stack":
        pieces = [
            (value and Value(value.node, (*value.dims[:dim], (), *value.dims[dim:])), (1,) * 9)
            for value, _ in pieces
        ]
    found = axes(moving(value.dims[dim]) for value, _ in pieces if value)
    shape = list(call.shape)
    if not found:
        return _concatenate_channels(call, [(value, size[dim]) for value, size in pieces], dim)
    if len(found) > 1 or TOKENS in found:
        tokens: Dim = (Digit(TOKENS, 1, call.shape[dim]),)
        parts = [_resized(value, dim, ()) for value, _ in pieces if value]
        shape[dim] = 1
        return _resized(_join(call, parts, shape), dim, tokens)
    starts = [sum(size[dim] for _, size in pieces[:i]) for i in range(len(pieces))]
    placed = [
        (value, range(start, start + size[dim]))
        for (value, size), start in zip(pieces, starts, strict=True)
        if value
    ]
    return _pieces(call, placed, dim, found.pop())


def _concatenate_channels(call: Call, pieces: list[tuple[Value | None, int]], dim: int) -> Value:
    """Keeps in mind which channels came from where, until something mixes them."""
    shape = list(call.shape)
    shape[dim] = 1
    joined = _join(call, [_resized(value, dim, ()) for value, _ in pieces if value], shape)
    result = _resized(joined, dim, channels(sum(count for _, count in pieces)))
    if joined.node not in {value.node for value, _ in pieces if value}:
        call.builder.parts[joined.node] = (result, dim, pieces)
    return result


def _take_channels(call: Call, value: Value, dim: int, how: Reach, count: int) -> Value:
    """Of concatenated channels in a row only the parts that they come from."""
    whole, place, pieces = call.builder.parts.get(value.node, (None, 0, []))
    start, mask = how.phases[0]
    if (whole, place, how.shift, mask) != (value, dim, 1, 1) or start < 0:
        return _mixed(call, value, _resized(value, dim, channels(count)).dims)
    taken: list[tuple[Value | None, int]] = []
    for part, size in pieces:
        first, end = max(start, 0), min(start + count, size)
        if end > first:
            rows = window(1, 1, -first)
            inner = part and _take_channels(call, part, dim, rows, end - first)
            taken.append((inner, end - first))
        start -= size
    if not any(part for part, _ in taken):
        raise LayoutError("it takes channels that do not depend on the image")
    if len(taken) == 1 and taken[0][0]:
        return taken[0][0]
    return _concatenate_channels(call, taken, dim)


def _mixed(call: Call, value: Value, dims: Dims) -> Value:
    """Channels that were concatenated are taken together from here on."""
    if value.node not in call.builder.parts:
        return Value(value.node, dims)
    same_place = [IDENTITY] * call.builder.rank
    return call.add([(value.node, same_place)], call.size(value), dims)


def _resized(value: Value, dim: int, new: Dim) -> Value:
    return Value(value.node, (*value.dims[:dim], new, *value.dims[dim + 1 :]))


def _pieces(call: Call, placed: list[tuple[Value, range]], dim: int, axis: int) -> Value:
    """A dimension of which each range of indices reads a value of its own."""
    total = call.shape[dim]
    if not _agree([_resized(value, dim, ()) for value, _ in placed]):
        raise LayoutError("its parts hold their positions in different orders")
    size = [max(column) for column in zip(*(call.size(v) for v, _ in placed), strict=True)]
    size[axis] = total
    inputs = []
    for value, indices in placed:
        own = list(call.size(value))
        if axis in axes((*value.dims[:dim], *value.dims[dim + 1 :])):
            raise LayoutError("positions of one axis stand in several dimensions")
        base = reads(value.dims[dim], axis, ())
        phases = [(0, 0)] * total
        for position, index in enumerate(indices):
            phases[index] = base.at(position)
        how = _stretched([*own[:axis], total, *own[axis + 1 :]], size)
        how[axis] = Reach(tuple(phases), 0, bounded=True)
        inputs.append((value.node, how))
    columns = zip(*(value.dims for value, _ in placed), strict=True)
    dims = [along(axis, total) if i == dim else _leading(c) for i, c in enumerate(columns)]
    return call.add(inputs, size, dims)


@_handles("slice_scatter")
def _slice_scatter(call: Call) -> Value:
    """`self` with a slice of it replaced by `src`."""
    dim, total = call["dim"] % len(call.shape), call.shape[call["dim"]]
    written = range(*slice(call["start"], call["end"], call["step"]).indices(total))
    under, over = call.optional("self"), call.optional("src")
    if over and len(written) == total:
        return over
    parts = [value for value in (under, over) if value]
    found = axes(moving(value.dims[dim]) for value in parts)
    if not found:
        whole = [_resized(value, dim, channels(total)) for value in parts]
        return _join(call, whole, call.shape)
    if len(found) > 1 or TOKENS in found:
        raise LayoutError("it overwrites positions of several axes")
    axis, inputs = found.pop(), []
    if over:
        inputs.append((over, written))
    if not under:
        return _pieces(call, inputs, dim, axis)
    left = [i for i in range(total) if i not in written]
    kept = Reach(tuple((i, 1 if i in set(left) else 0) for i in range(total)), 0, bounded=True)
    under = _take(call, under, dim, kept, total)
    if not over:
        return under
    return _join(call, [under, _pieces(call, inputs, dim, axis)], call.shape)


# ----------------------------------------------------------------- windows over space


def _windowed(
    call: Call, source: Value, rank: int, how: Sequence[Reach], kind: str, shown: Window
) -> Value:
    """The last `rank` dimensions read at `how`, channels before them taken together."""
    *outer, mixed = source.dims[:-rank]
    if axes(moving(dim) for dim in outer):
        raise LayoutError("positions stand in the batch dimension")
    holders, base = _regroup(call, source, source.dims[-rank:], (mixed,))
    sizes = call.shape[-rank:]
    size = [1] * call.builder.rank
    dims: list[Dim] = [channels(n) for n in call.shape]
    for index, axis in enumerate(holders):
        if axis is not None:
            size[axis] = sizes[index]
            inner = base[axis]
            base[axis] = None if inner is None else compose(how[index], inner, sizes[index])
            dims[index - rank] = along(axis, sizes[index])
    return call.add(
        [(source.node, base)], size, dims, kind, _on_axes(shown, holders, call.builder.rank)
    )


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


def _every(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """One entry per dimension of what torch lets be written once."""
    entries = [value] if isinstance(value, int) else list(value)
    return tuple(entries * rank if len(entries) == 1 else entries)


@_handles("convolution")
def _convolution(call: Call) -> Value:
    weight = call["weight"]
    if call.find(weight) is not None:
        raise LayoutError("its weights are computed from the image")
    rank, kernel = weight.dim() - 2, tuple(weight.shape[2:])
    stride, padding, dilation = (
        _every(call[name], rank) for name in ("stride", "padding", "dilation")
    )
    if call["transposed"]:
        how = [_transposed(*entry) for entry in zip(kernel, stride, padding, dilation, strict=True)]
        kind = "transposed"
    else:
        how = [window(*entry) for entry in zip(kernel, stride, padding, dilation, strict=True)]
        kind = _kind(kernel, call["groups"], weight.shape[1])
    both = tuple((p, p) for p in padding)
    shown = Window(kernel, stride, both, dilation, call["groups"])
    return _windowed(call, call.value("input"), rank, how, kind, shown)


def _kind(kernel: tuple[int, ...], groups: int, per_group: int) -> str:
    wide = max(kernel) > 1
    if wide and groups > 1 and per_group == 1:
        return "depthwise"
    return "conv" if wide or groups > 1 else "pointwise"


def _transposed(kernel: int, stride: int, padding: int, dilation: int) -> Reach:
    """Input m adds to outputs m * stride - padding + tap * dilation."""
    phases = []
    for phase in range(stride):
        reached = [phase + padding - tap * dilation for tap in range(kernel)]
        sources = [position // stride for position in reached if position % stride == 0]
        first = min(sources, default=0)
        phases.append((first, sum(1 << (source - first) for source in sources)))
    return Reach(tuple(phases), 1)


@_handles("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d")
def _pool(call: Call) -> Value:
    rank = 3 if "3d" in call.name else 2
    kernel = _every(call["kernel_size"], rank)
    stride = _every(call["stride"] or kernel, rank)
    padding = _every(call["padding"], rank)
    dilation = _every(call.arguments.get("dilation", 1), rank)
    how = [window(*entry) for entry in zip(kernel, stride, padding, dilation, strict=True)]
    shown = Window(kernel, stride, tuple((p, p) for p in padding), dilation)
    return _windowed(call, call.value("self"), rank, how, f"{call.name[:3]}pool", shown)


@_handles(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"
)
def _adaptive_pool(call: Call) -> Value:
    """Cell i of n reads from floor(i * size / n) up to ceil((i + 1) * size / n)."""
    rank = 3 if "3d" in call.name else 2
    source = call.value("self")
    have = [length(dim) for dim in source.dims[-rank:]]
    cells = call.shape[-rank:]
    how = [
        NOTHING if want == 1 else _cells(size, want) for size, want in zip(have, cells, strict=True)
    ]
    if all(want == 1 for want in cells):
        return _windowed(call, source, rank, how, "", _unit_window(rank))
    kernel = tuple(-(-size // want) for size, want in zip(have, cells, strict=True))
    stride = tuple(max(1, size // want) for size, want in zip(have, cells, strict=True))
    ones = (1,) * rank
    shown = Window(kernel, stride, ((0, 0),) * rank, ones)
    pooled = _windowed(call, source, rank, how, "adaptive pool", shown)
    call.builder.grids[pooled.node] = source.node
    return pooled


def _unit_window(rank: int) -> Window:
    return Window((1,) * rank, (1,) * rank, ((0, 0),) * rank, (1,) * rank)


def _cells(size: int, cells: int) -> Reach:
    common = math.gcd(size, cells)
    phases = []
    for cell in range(cells // common):
        first, end = cell * size // cells, -(-(cell + 1) * size // cells)
        phases.append((first, (1 << (end - first)) - 1))
    return Reach(tuple(phases), size // common)


@_handles("im2col")
def _im2col(call: Call) -> Value:
    """Patches in the channels, places of patches in one dimension."""
    value = call.value("self")
    names = ("kernel_size", "stride", "padding", "dilation")
    kernel, stride, padding, dilation = (_every(call[name], 2) for name in names)
    how = [window(*entry) for entry in zip(kernel, stride, padding, dilation, strict=True)]
    sizes = [
        (length(dim) + 2 * p - d * (k - 1) - 1) // s + 1
        for dim, k, s, p, d in zip(value.dims[2:], kernel, stride, padding, dilation, strict=True)
    ]
    holders, base = _regroup(call, value, value.dims[2:], value.dims[1:2])
    if holders != [0, 1] or axes(value.dims[:1]):
        raise LayoutError("it makes patches of something other than rows and columns")
    both = [
        None if below is None else compose(own, below, n)
        for own, below, n in zip(how, base, sizes, strict=True)
    ]
    places = along(0, sizes[0]) + along(1, sizes[1])
    return call.add([(value.node, both)], sizes, ((), channels(call.shape[1]), places))


@_handles("unfold")
def _unfold(call: Call) -> Value:
    """Windows along one dimension; what a window holds becomes channels."""
    dim = call["dimension"] % (len(call.shape) - 1)
    how = window(call["size"], call["step"])
    taken = _take(call, call.value("self"), dim, how, call.shape[dim])
    return Value(taken.node, (*taken.dims, channels(call["size"])))


@_handles(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
)  # fmt: skip
def _upsample(call: Call) -> Value:
    source = call.value("self")
    rank = int(call.name[-2])
    sizes = call.shape[-rank:]
    have = [length(dim) for dim in source.dims[-rank:]]
    corners = call.arguments.get("align_corners", False)
    how = [
        _resampled(call.name, n, want, given, corners)
        for n, want, given in zip(have, sizes, _scales(call, rank), strict=True)
    ]
    return _windowed(call, source, rank, how, "upsample", _unit_window(rank))


def _scales(call: Call, rank: int) -> list[float | None]:
    if rank == 1:
        return [call.arguments.get("scales")]
    return [call.arguments.get(f"scales_{side}") for side in "dhw"[-rank:]]


def _resampled(name: str, size: int, count: int, scale: float | None, corners: bool) -> Reach:
    """What each of `count` points reads of `size`, as torch places them."""
    step = Fraction(size, count) if not scale else Fraction(1 / scale).limit_denominator(4096)
    if corners:
        step = Fraction(size - 1, count - 1) if count > 1 else Fraction(0)
    middle = Fraction(0) if corners or "nearest2d" in name else Fraction(1, 2)
    middle = Fraction(0) if "upsample_nearest" in name and "exact" not in name else middle
    phases = []
    for point in range(min(step.denominator, count)):
        position = (point + middle) * step - (0 if "nearest" in name else middle)
        first = math.floor(position)
        taps = 1 if "nearest" in name or position == first else 4 if "cubic" in name else 2
        phases.append((first - (taps == 4), (1 << taps) - 1))
    return Reach(tuple(phases), step.numerator)


# ------------------------------------------------------------- sums over a dimension


def _contract(
    call: Call, value: Value, dims: Sequence[int], full: Reach | None
) -> tuple[Reads, list[int], list[Dim]]:
    """Reads, sizes and dimensions left when `dims` are summed; they become ()."""
    rank = len(value.dims)
    summed = {dim % rank for dim in dims}
    mixed = [value.dims[dim] for dim in summed]
    size = list(call.size(value))
    left = [() if i in summed else dim for i, dim in enumerate(value.dims)]
    touched = axes(moving(dim) for dim in mixed)
    if TOKENS in touched:
        return [full] * len(size), [1] * len(size), left
    if all(_covers(mixed, axis, size[axis]) for axis in touched):
        how: Reads = [full if axis in touched else IDENTITY for axis in range(len(size))]
        return how, [1 if axis in touched else n for axis, n in enumerate(size)], left
    holders, how = _regroup(call, value, left, mixed, full)
    size = [1] * len(size)
    for index, axis in enumerate(holders):
        if axis is not None:
            size[axis] = length(left[index])
            left[index] = along(axis, size[axis])
    return how, size, left


def _covers(mixed: Sequence[Dim], axis: int, n: int) -> bool:
    return length(digit for dim in mixed for digit in dim if digit.axis == axis) == n


@_handles(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod",
    "linalg_vector_norm", "norm", "logsumexp", "any", "all", "argmax", "argmin",
)  # fmt: skip
def _reduce(call: Call) -> Value:
    """Over whole axes it is a global reduction, which does not count."""
    if "other" in call.arguments:
        return elementwise(call)
    value = call.value("self")
    asked = call.arguments.get("dim")
    if asked is None or asked == []:
        asked = range(len(value.dims))
    dims = [asked] if isinstance(asked, int) else list(asked)
    how, size, left = _contract(call, value, dims, NOTHING)
    if any(moving(value.dims[dim]) for dim in dims):
        value = call.add([(value.node, how)], size, left)
    if not call.arguments.get("keepdim", False):
        gone = {dim % len(left) for dim in dims}
        left = [dim for i, dim in enumerate(left) if i not in gone]
    return _mixed(call, value, tuple(left))


@_handles("_softmax", "_log_softmax", "_safe_softmax")
def _softmax(call: Call) -> Value:
    value = call.value("self")
    found = axes([moving(value.dims[call["dim"]])])
    if not found:
        return _mixed(call, value, value.dims)
    call.note("softmax over positions reads the whole image")
    size = call.size(value)
    how = [None if found & {axis, TOKENS} else IDENTITY for axis in range(len(size))]
    return call.add([(value.node, how)], size, value.dims)


@_handles("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot")
def _matmul(call: Call) -> Value:
    names = {"mat1", "batch1", "mat", "mat2", "batch2", "vec", "vec2", "tensor"}
    factors = [name for name in call.arguments if name in names]
    if call.name in ("mm", "bmm", "mv", "dot"):
        factors = ["self", *factors]
    first, second = (call.optional(name) for name in factors)
    product = _product(call, first, second)
    added = call.optional("self") if call.name.startswith(("add", "badd")) else None
    return _join(call, [product, added], call.shape) if added else product


def _product(call: Call, first: Value | None, second: Value | None) -> Value:
    factors = [value for value in (first, second) if value]
    attention = len(factors) == 2 and all(value.moves for value in factors)
    if attention or any(map(call.builder.whole, factors)):
        if attention:
            call.note("a product of two feature maps (attention) reads the whole image")
        rank = call.builder.rank
        nowhere: Reads = [None] * rank
        return call.add(
            [(value.node, nowhere) for value in factors],
            [1] * rank,
            [channels(n) for n in call.shape],
            "matmul",
        )
    leads = first is not None and (second is None or not second.moves)
    value, other = (first, second) if leads else (second, first)
    if value is None:
        raise LayoutError("none of its factors depends on the image")
    summed = -1 if leads else max(-2, -len(value.dims))
    full = NOTHING if value.node in call.builder.grids else None
    how, size, left = _contract(call, value, [summed], full)
    source = value.node
    if None in how:
        call.note("a linear layer over positions reads the whole image")
    elif full is NOTHING and NOTHING in how:
        source = call.builder.grids[source]
    inputs: list[tuple[int, Reads]] = [(source, how)]
    if other:
        inputs.append((other.node, _stretched(call.size(other), size)))
    dims = _product_dims(call, left, leads)
    return call.add(inputs, size, dims, "linear")


def _product_dims(call: Call, left: list[Dim], leads: bool) -> list[Dim]:
    """The summed dimension gives way to the other factor's."""
    *outer, m, n = [(), (), *left][-max(2, len(left)) :]
    rank = len(call.shape)
    if rank < 2:  # a vector is a factor
        return [m if moving(m) else channels(size) for size in call.shape]
    pair = [m, channels(call.shape[-1])] if leads else [channels(call.shape[-2]), n]
    return [*outer, *pair][-rank:]
