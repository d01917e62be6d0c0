"""Operations that compute each value from values at its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search.analysis.reach import FIRST, IDENTITY, Reach, compose, window
from search.analysis.tracing.attention import paired, read_within
from search.analysis.tracing.calls import Builder, Call, Reads, Value, handles
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.layout import (
    TOKENS,
    Dim,
    Dims,
    along,
    axes,
    channels,
    condensed,
    length,
    moving,
    reads,
    reshape,
    same,
)


@handles(
    # Without torch's tag `pointwise`, but each output element reads its own index alone.
    "hardswish", "_prelu_kernel", "_to_copy", "detach", "alias", "lift_fresh", "masked_fill",
    "log_sigmoid_forward", "rrelu_with_noise_functional", "native_dropout",
    "leaky_relu",  # in torch 2.11
    # Statistics over space are global averages, which do not count.
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "native_group_norm",
)  # fmt: skip
def elementwise(call: Call) -> Value:
    """Also the handler of everything tagged `pointwise`."""
    return join(call, list(call.values()), call.shape)


@handles("native_layer_norm", "_fused_rms_norm")
def _layer_norm(call: Call) -> Value:
    """Statistics over space do not count, but channels are mixed in each position."""
    value = call.value("input")
    return mixed(call, value, value.dims)


@handles("glu")
def _gate(call: Call) -> Value:
    value = call.value("self")
    if moving(value.dims[call["dim"]]):
        raise LayoutError("it multiplies one half of the positions by the other")
    new = resized(value, call["dim"] % len(value.dims), channels(call.shape[call["dim"]]))
    return mixed(call, value, new.dims)


@handles("copy")
def _copy(call: Call) -> Value:
    return join(call, [call.value("src")], call.shape)


def join(call: Call, values: list[Value], shape: Sequence[int], kind: str = "") -> Value:
    """Values read together, index by index, after broadcasting to `shape`."""
    values = [broadcast(value, shape) for value in values]
    if not kind and all(value == values[0] for value in values):
        call.builder.operations.setdefault(values[0].node, []).append(call.name)
        return values[0]
    if not _alike(call, values):
        if len(values) > 2:
            return join(call, [join(call, values[:2], shape), *values[2:]], shape, kind)
        try:
            return _in_step(call, values, shape, kind)
        except LayoutError:
            values = [_plain(call, value) for value in values]
        if not agree(values):
            raise LayoutError("its inputs hold their positions in different orders")
    dims = [leading(column) for column in zip(*(value.dims for value in values), strict=True)]
    sizes = [call.size(value) for value in values]
    size = tuple(max(column) for column in zip(*sizes, strict=True))
    _require_once(dims, size)
    return call.add(
        [(value.node, stretched(own, size)) for value, own in zip(values, sizes, strict=True)],
        size,
        dims,
        kind,
    )


def _alike(call: Call, values: list[Value]) -> bool:
    """Whether the same index means the same position of maps of one size, or of one cell."""
    sides = zip(*(call.size(value) for value in values), strict=True)
    return agree(values) and all(len({*side} - {1}) < 2 for side in sides)


def _in_step(call: Call, values: list[Value], shape: Sequence[int], kind: str) -> Value:
    """Two maps of which one has a position for each of the result's, and the other one for
    several of them: the sum of a window, or of what stands at the same place in each.

    Raises:
        LayoutError: neither has, or they count their positions in different orders.
    """
    rank, pairs = call.builder.rank, paired(*(value.dims for value in values))
    leads: list[int] = []
    for axis in range(rank):
        told = [pair for pair in pairs if axis in (pair[0].axis, pair[1].axis)]
        leads += [i for i in (0, 1) if all(pair[i].axis == axis for pair in told)][:1]
    if len(leads) < rank or TOKENS in axes(dim for value in values for dim in value.dims):
        raise LayoutError("positions are combined with other positions of the same axis")
    (dim,), size, _ = condensed(
        (tuple(pair[leads[max(digit.axis for digit in pair)]] for pair in pairs),), rank
    )
    inputs: list[tuple[int, Reads]] = []
    for index, value in enumerate(values):
        require_alike(call.builder, value, value.dims)
        kept = [(digit, pair[index]) for digit, pair in zip(dim, pairs, strict=True)]
        order = [(own.axis, own.weight) for _, own in sorted(kept) if own.spatial]
        if order != sorted(order):
            raise LayoutError("its inputs hold their positions in different orders")
        ways = enumerate(zip(call.size(value), size, strict=True))
        how = [read_within(have, axis, kept, (), None, want) for axis, (have, want) in ways]
        inputs.append((value.node, how))
    return call.add(inputs, size, reshape((dim,), shape), kind)


def broadcast(value: Value, shape: Sequence[int]) -> Value:
    """`value` as an operation of `shape` sees it: new and stretched dimensions hold channels."""
    dims = ((),) * (len(shape) - len(value.dims)) + value.dims
    return Value(
        value.node,
        tuple(
            channels(size) if length(dim) == 1 < size else dim
            for dim, size in zip(dims, shape, strict=True)
        ),
    )


def agree(values: list[Value]) -> bool:
    """Whether all values mean the same positions wherever they hold positions."""
    return all(
        same(a, b)
        for column in zip(*(value.dims for value in values), strict=True)
        for a in column
        for b in column
        if moving(a) and moving(b)
    )


def leading(column: Sequence[Dim]) -> Dim:
    """The dimension that says most: of positions, of one position, of none."""
    return max(column, key=lambda dim: (bool(moving(dim)), bool(axes([dim]))))


def stretched(own: Sequence[int], size: Sequence[int]) -> Reads:
    """What a map of `size` reads, per axis, of one of `own` sides.

    Raises:
        LayoutError: a side is neither 1 nor equal.
    """
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
    holders, base = regroup(call, value, value.dims, ())
    dims = list(value.dims)
    size = [1] * call.builder.rank
    for dim, axis in enumerate(holders):
        if axis is not None:
            size[axis] = length(value.dims[dim])
            dims[dim] = along(axis, size[axis])
    return call.add([(value.node, base)], size, dims)


def laid(call: Call, value: Value, dims: Dims, first: Sequence[int]) -> Value:
    """A map of the positions that `dims` run through, step by step from the `first` ones of
    `value`'s map: some of these may be left out, others taken several times."""
    new, size, old = condensed(dims, call.builder.rank)
    if new == dims and size == list(call.size(value)) and not any(first):
        return Value(value.node, dims)
    how = [
        compose(reads(dim, axis, ()), window(1, 1, -start), n)
        for axis, (dim, start, n) in enumerate(zip(old, first, size, strict=True))
    ]
    result = call.add([(value.node, how)], size, new)
    one = [axis for axis, had in enumerate(call.size(value)) if size[axis] == 1 < had]
    if one:
        call.builder.rows[result.node] = (*call.builder.rows.get(value.node, ()), *one)
    return result


def gridded(call: Call, value: Value) -> Value:
    """A map of the positions that the last dimensions hold, with all that stands at each as
    channels: of space to depth the coarse map, of depth to space the fine one."""
    rank = call.builder.rank
    kept = value.dims[-rank:]
    plain = [along(axis, n) for axis, n in enumerate(call.size(value))]
    if len(value.dims) != rank + 2 or list(kept) == plain or not all(map(moving, kept)):
        return value
    batch, mixed = value.dims[:2]
    if axes([batch]) or [axes([moving(dim)]) for dim in kept] != [{axis} for axis in range(rank)]:
        return value
    _, base = regroup(call, value, kept, (mixed,))
    size = list(map(length, kept))
    dims = [along(axis, n) for axis, n in enumerate(size)]
    return call.add([(value.node, base)], size, (batch, channels(length(mixed)), *dims))


def regroup(
    call: Call, value: Value, kept: Sequence[Dim], mixed: Sequence[Dim], full: Reach | None = None
) -> tuple[list[int | None], Reads]:
    """How the dimensions `kept`, one axis each, read the map once `mixed` are united.

    Gives the axis of each kept dimension and the reads per axis; `full` where all of an
    axis is mixed.
    """
    require_alike(call.builder, value, kept)
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


def require_alike(builder: Builder, value: Value, kept: Iterable[Dim]) -> None:
    """Channels between positions are copies of each of these, if all see the same."""
    woven = any(moving(dim) and length(dim) > length(moving(dim)) for dim in kept)
    if woven and not builder.alike(builder.apart.get(value.node, ())):
        raise LayoutError("maps that see different places stand by turns along one axis")


def _axis(dim: Dim) -> int | None:
    """The only spatial axis of a dimension."""
    found = axes([moving(dim)]) or axes([dim])
    if len(found) > 1 or TOKENS in found:
        raise LayoutError("positions of several axes stand in one dimension")
    return found.pop() if found else None


def mixed(call: Call, value: Value, dims: Dims) -> Value:
    """Channels that were concatenated are taken together from here on."""
    if value.node not in call.builder.parts:
        return Value(value.node, dims)
    same_place = [IDENTITY] * call.builder.rank
    return call.add([(value.node, same_place)], call.size(value), dims)


def resized(value: Value, dim: int, new: Dim) -> Value:
    """`value` with its dimension `dim` replaced."""
    return Value(value.node, (*value.dims[:dim], new, *value.dims[dim + 1 :]))


def dropped(value: Value, dim: int) -> Value:
    """`value` without its dimension `dim`, of one index."""
    return Value(value.node, value.dims[:dim] + value.dims[dim + 1 :])


def inserted(value: Value, dim: int, new: Dim) -> Value:
    """`value` with a new dimension at `dim`."""
    return Value(value.node, (*value.dims[:dim], new, *value.dims[dim:]))
