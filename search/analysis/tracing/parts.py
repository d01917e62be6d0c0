"""Taking maps apart and putting them together: slices, splits, pads, concatenations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from search.analysis.reach import IDENTITY, NOTHING, Reach, compose, listed, unite, window, within
from search.analysis.tracing.calls import Call, Value, handles
from search.analysis.tracing.elementwise import (
    agree,
    join,
    leading,
    mixed,
    require_alike,
    resized,
    stretched,
)
from search.analysis.tracing.layout import (
    TOKENS,
    Digit,
    Dim,
    LayoutError,
    along,
    axes,
    channels,
    length,
    moving,
    reads,
    reshape,
)


def take(call: Call, value: Value, dim: int, how: Reach, count: int) -> Value:
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
    require_alike(call.builder, value, [dims[dim]])
    size, base = list(call.size(value)), [IDENTITY] * call.builder.rank
    base[axis] = compose(how, reads(dims[dim], axis, ()), count)
    known = call.builder.rows.get(value.node, ())
    one_of_several = size[axis] > count == 1
    size[axis], dims[dim] = count, along(axis, count)
    taken = call.add([(value.node, base)], size, dims)
    if one_of_several:
        call.builder.rows[taken.node] = (*known, axis)
    return taken


@handles("slice")
def _slice(call: Call) -> Value:
    value, dim = call.value("self"), call["dim"]
    have, count = length(value.dims[dim]), call.shape[dim]
    start, step = call["start"] or 0, call["step"]
    start = max(0, start + have if start < 0 else start)
    if count == have:
        return value
    return take(call, value, dim, window(1, step, -start), count)


@handles("select")
def _select(call: Call) -> Value:
    value, dim = call.value("self"), call["dim"] % len(call.value("self").dims)
    index = call["index"] % length(value.dims[dim])
    return _dropped(take(call, value, dim, window(1, 1, -index), 1), dim)


def _dropped(value: Value, dim: int) -> Value:
    return Value(value.node, value.dims[:dim] + value.dims[dim + 1 :])


@handles("split", "split_with_sizes", "unbind", "unsafe_split", "unsafe_split_with_sizes")
def _split(call: Call) -> list[Value]:
    value, dim = call.value("self"), call["dim"] % len(call.value("self").dims)
    result, start = [], 0
    for part in call.out:
        count = 1 if call.name == "unbind" else part.shape[dim]
        taken = take(call, value, dim, window(1, 1, -start), count)
        result.append(_dropped(taken, dim) if call.name == "unbind" else taken)
        start += count
    return result


@handles("flip")
def _flip(call: Call) -> Value:
    value = call.value("self")
    for dim in call["dims"]:
        n = call.shape[dim]
        value = take(call, value, dim, Reach(((n - 1, 1),), -1), n)
    return value


@handles("rot90")
def _quarter_turns(call: Call) -> Value:
    """One turn is a mirror along the second axis, and then the axes change places."""
    value, turns = call.value("self"), call["k"] % 4
    first, second = (dim % len(value.dims) for dim in call["dims"])
    mirrors = {0: (), 1: (second,), 2: (first, second), 3: (first,)}[turns]
    for dim in mirrors:
        n = length(value.dims[dim])
        value = take(call, value, dim, Reach(((n - 1, 1),), -1), n)
    dims = list(value.dims)
    if turns % 2:
        dims[first], dims[second] = dims[second], dims[first]
    return Value(value.node, tuple(dims))


@handles("roll")
def _roll(call: Call) -> Value:
    """A shift by the shorter way; what comes in at the far end is a border, as in padding."""
    value = call.value("self")
    for dim, shift in zip(call["dims"], call["shifts"], strict=True):
        n = call.shape[dim]
        how = window(1, 1, (shift + n // 2) % n - n // 2)
        if 2 * shift % n == 0:  # Both ways are equally short: the halves change places.
            how = listed([(i - shift) % n for i in range(n)])
        value = take(call, value, dim, how, n)
    return value


@handles("index_select", "index")
def _index(call: Call) -> Value:
    """Picks channels; picking positions is refused, for the picks have no values here."""
    value = call.value("self")
    if call.name == "index_select":
        picked = [call["dim"] % len(value.dims)]
    else:
        picked = [i for i, index in enumerate(call["indices"]) if index is not None]
    if len(picked) != 1 or len(call.shape) != len(value.dims) or moving(value.dims[picked[0]]):
        raise LayoutError("it picks positions by a table")
    new = resized(value, picked[0], channels(call.shape[picked[0]]))
    return mixed(call, value, new.dims)


@handles(
    "constant_pad_nd",
    *(f"{kind}_pad{rank}d" for kind in ("reflection", "replication") for rank in (1, 2, 3)),
)
def _pad(call: Call) -> Value:
    """What stands in the border is taken for nothing, as in every receptive field."""
    value = call.value("self")
    amounts = call["pad" if call.name == "constant_pad_nd" else "padding"]
    for dim, before in zip(range(-1, -len(value.dims) - 1, -1), amounts[::2], strict=False):
        if any(amounts[-2 * dim - 2 : -2 * dim]):
            value = take(call, value, dim, window(1, 1, before), call.shape[dim])
    return value


@handles("cat", "stack")
def _concatenate(call: Call) -> Value:
    tensors = call["tensors"]
    dim = call.arguments.get("dim", 0) % len(call.shape)
    pieces = [(call.find(tensor), tensor.shape) for tensor in tensors]
    if call.name == "stack":
        row = _row(call, [value for value, _ in pieces if value])
        pieces = [(value and _inserted(value, dim, row), (1,) * 9) for value, _ in pieces]
    elif all(size[dim] == 1 and not (value and value.dims[dim]) for value, size in pieces):
        row = _row(call, [value for value, _ in pieces if value])
        pieces = [(value and resized(value, dim, row), size) for value, size in pieces]
    found = axes(value.dims[dim] for value, _ in pieces if value)
    shape = list(call.shape)
    if not found:
        return _concatenate_channels(call, [(value, size[dim]) for value, size in pieces], dim)
    if len(found) > 1 or TOKENS in found:
        tokens: Dim = (Digit(TOKENS, 1, call.shape[dim]),)
        pyramid = _pyramid(call, [value for value, _ in pieces if value])
        if pyramid:
            return Value(pyramid.node, (*pyramid.dims[:dim], tokens, *pyramid.dims[dim + 1 :]))
        parts = [resized(value, dim, ()) for value, _ in pieces if value]
        shape[dim] = 1
        return resized(join(call, parts, shape), dim, tokens)
    values = [value for value, _ in pieces if value]
    if any(moving(value.dims[dim]) for value in values) and _row(call, values):
        if len({size[dim] for _, size in pieces}) > 1:
            raise LayoutError("rows or columns of several lengths stand one behind the other")
        return _rows_in_line(call, [value for value, _ in pieces], dim)
    starts = [sum(size[dim] for _, size in pieces[:i]) for i in range(len(pieces))]
    placed = [
        (value, _placed(range(start, start + size[dim]), call.shape[dim]))
        for (value, size), start in zip(pieces, starts, strict=True)
        if value
    ]
    return _pieces(call, placed, dim, found.pop(), call.shape[dim])


def _row(call: Call, values: list[Value]) -> Dim:
    """The axis at one index of which each of `values` stands, as a dimension of this index.

    Raises:
        LayoutError: several do, and others do not.
    """
    rows = [
        [axis for axis in call.builder.rows.get(value.node, ()) if axis not in axes(value.dims)]
        for value in values
    ]
    common = [axis for axis in rows[0] if all(axis in row for row in rows)]
    if not common and sum(map(bool, rows)) > 1:
        raise LayoutError("rows or columns of a map are put together with what is none")
    return along(common[-1], 1) if common else ()


def _inserted(value: Value, dim: int, new: Dim) -> Value:
    return Value(value.node, (*value.dims[:dim], new, *value.dims[dim:]))


def _rows_in_line(call: Call, rows: Sequence[Value | None], dim: int) -> Value:
    """Rows one behind the other in one dimension, of which their number is the major part."""
    row = _row(call, [value for value in rows if value])
    (axis,), count = axes([row]), len(rows)
    placed = [
        (_inserted(value, dim, row), _placed(range(index, index + 1), count))
        for index, value in enumerate(rows)
        if value
    ]
    whole = _pieces(call, placed, dim, axis, count)
    line = whole.dims[dim] + whole.dims[dim + 1]
    return Value(whole.node, (*whole.dims[:dim], line, *whole.dims[dim + 2 :]))


def _pyramid(call: Call, values: list[Value]) -> Value | None:
    """Grids of adaptive pooling in one sequence, of several sizes: a grid too."""
    grids = call.builder.grids
    sources = {grids[value.node] for value in values if value.node in grids}
    if len({call.size(value) for value in values}) == 1 or len(sources) != 1:
        return None
    if any(value.moves and value.node not in grids for value in values):
        return None
    rank = call.builder.rank
    nothing = [NOTHING] * rank
    dims = [channels(n) for n in call.shape]
    pyramid = call.add([(value.node, nothing) for value in values], [1] * rank, dims)
    grids[pyramid.node] = sources.pop()
    return pyramid


def _concatenate_channels(call: Call, pieces: list[tuple[Value | None, int]], dim: int) -> Value:
    """Keeps in mind which channels came from where, until something mixes them."""
    shape = list(call.shape)
    shape[dim] = 1
    joined = join(call, [resized(value, dim, ()) for value, _ in pieces if value], shape)
    result = resized(joined, dim, channels(sum(count for _, count in pieces)))
    nodes = {value.node for value, _ in pieces if value}
    if joined.node not in nodes:
        apart = call.builder.apart
        apart[joined.node] = apart.get(joined.node, frozenset()) | nodes
        call.builder.parts[joined.node] = (result, dim, pieces)
    return result


def _take_channels(call: Call, value: Value, dim: int, how: Reach, count: int) -> Value:
    """Of concatenated channels in a row only the parts that they come from."""
    whole, place, pieces = call.builder.parts.get(value.node, (None, 0, []))
    start, mask = how.phases[0]
    if (whole, place, how.shift, mask) != (value, dim, 1, 1) or start < 0:
        return mixed(call, value, resized(value, dim, channels(count)).dims)
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


def _pieces(
    call: Call, placed: list[tuple[Value, Reach]], dim: int, axis: int, total: int
) -> Value:
    """A dimension of `total` indices that read one of several values each, at which of its."""
    if not agree([resized(value, dim, ()) for value, _ in placed]):
        raise LayoutError("its parts hold their positions in different orders")
    size = [max(column) for column in zip(*(call.size(v) for v, _ in placed), strict=True)]
    size[axis] = total
    inputs = []
    for value, indices in placed:  # in one node, which knows that nothing is left out
        own = list(call.size(value))
        if axis in axes((*value.dims[:dim], *value.dims[dim + 1 :])):
            raise LayoutError("positions of one axis stand in several dimensions")
        require_alike(call.builder, value, [value.dims[dim]])
        base = reads(value.dims[dim], axis, ())
        how = stretched([*own[:axis], total, *own[axis + 1 :]], size)
        how[axis] = compose(indices, base, total)
        inputs.append((value.node, how))
    columns = zip(*(value.dims for value, _ in placed), strict=True)
    dims = [along(axis, total) if i == dim else leading(c) for i, c in enumerate(columns)]
    whole = call.add(inputs, size, dims)
    _require_no_shift(call, whole.node, axis)
    return whole


def _require_no_shift(call: Call, node: int, axis: int) -> None:
    """Along the other axes all units would see what the pieces see together."""
    for other in set(range(call.builder.rank)) - {axis}:
        pieces = [call.builder.seen(piece, other) for piece in call.builder.nodes[node].inputs]
        together = call.builder.seen(node, other)
        if together and together.span > max(piece.span for piece in pieces if piece):
            raise LayoutError("its pieces see different places along another axis")


def interleaved(call: Call, value: Value) -> Value | None:
    """Stacked maps whose number becomes a part of the position; None where it does not."""
    whole, place, pieces = call.builder.parts.get(value.node, (value, 0, []))
    if value != whole or not pieces:
        return None
    if any(size != 1 for _, size in pieces):
        return _rows_apart(call, whole, place, pieces)
    count, sizes = len(pieces), [length(dim) for dim in value.dims]
    for dim, own in ((place - 1, place - 1), (place, place + 1)):  # it comes last, or first
        if dim < 0 or own == len(sizes):
            continue
        found, rest = axes([moving(value.dims[own])]), sizes[own]
        total = count * rest
        if len(found) != 1 or (*sizes[:dim], total, *sizes[dim + 2 :]) != call.shape:
            continue
        places = [
            range(i, total, count) if dim < place else range(i * rest, (i + 1) * rest)
            for i in range(count)
        ]
        placed = [
            (_dropped(part, place), _placed(indices, total))
            for (part, _), indices in zip(pieces, places, strict=True)
            if part
        ]
        return _pieces(call, placed, dim, found.pop(), total)
    return None


def _rows_apart(
    call: Call, whole: Value, place: int, pieces: list[tuple[Value | None, int]]
) -> Value | None:
    """Rows whose channels were concatenated, where their number becomes a dimension."""
    row = _row(call, [part for part, _ in pieces if part])
    if not row or len({size for _, size in pieces}) > 1:
        return None
    (axis,), count = axes([row]), len(pieces)
    lines = resized(whole, place, along(axis, count) + channels(pieces[0][1]))
    if along(axis, count) not in reshape(lines.dims, call.shape):
        return None
    together = _rows_in_line(call, [part for part, _ in pieces], place)
    return Value(together.node, reshape(together.dims, call.shape))


def permuted(call: Call, value: Value, order: list[int]) -> Value:
    """`value` with its dimensions in another order; stacked maps are stacked in that order."""
    dims = tuple(value.dims[dim] for dim in order)
    whole, place, pieces = call.builder.parts.get(value.node, (value, 0, []))
    if value != whole:
        return mixed(call, value, dims)
    if not pieces or any(size != 1 for _, size in pieces):
        return Value(value.node, dims)
    turned = [
        (part and Value(part.node, tuple(part.dims[dim] for dim in order)), size)
        for part, size in pieces
    ]
    return _concatenate_channels(call, turned, order.index(place))


def _placed(indices: range, total: int) -> Reach:
    """The first of `indices` reads position 0, the next 1; the others of `total` nothing."""
    turns, phase = divmod(indices.start, indices.step)
    phases = [(0, 0)] * indices.step
    phases[phase] = (-turns, 1)
    return _confined(Reach(tuple(phases), 1), indices, total)


def _left(indices: range, total: int) -> Reach:
    """Every position of `total` but `indices`, in its place."""
    step, whole = indices.step, range(total)
    phases = tuple((i, int(i != indices.start % step)) for i in range(step))
    left = _confined(Reach(phases, step), indices, total)
    for rest in (whole[: indices.start], whole[indices.stop :]):
        if len(rest) >= step:
            left = unite(left, within(IDENTITY, rest.start, rest.stop), total)
    return left


def _confined(reach: Reach, indices: range, total: int) -> Reach:
    """`reach` where `indices` run; everywhere, where they begin and end with `total`."""
    step = indices.step
    start = indices.start if indices.start >= step else 0
    stop = indices.stop if total - indices.stop >= step else total
    return within(reach, start, stop)


@handles("slice_scatter")
def _slice_scatter(call: Call) -> Value:
    """`self` with a slice of it replaced by `src`."""
    total = call.shape[call["dim"]]
    written = range(*slice(call["start"], call["end"], call["step"]).indices(total))
    return _overwritten(call, call.optional("src"), written)


@handles("select_scatter")
def _select_scatter(call: Call) -> Value:
    """`self` with one index of a dimension replaced by `src`, which lacks this dimension."""
    dim, over = call["dim"] % len(call.shape), call.optional("src")
    if over:
        over = _inserted(over, dim, _row(call, [over]))
    index = call["index"] % call.shape[dim]
    return _overwritten(call, over, range(index, index + 1))


def _overwritten(call: Call, over: Value | None, written: range) -> Value:
    dim, total = call["dim"] % len(call.shape), call.shape[call["dim"]]
    under = call.optional("self")
    if over and len(written) == total:
        return over
    parts = [value for value in (under, over) if value]
    found = axes(moving(value.dims[dim]) for value in parts) or axes(
        value.dims[dim] for value in parts
    )
    if not found:
        whole = [resized(value, dim, channels(total)) for value in parts]
        return join(call, whole, call.shape)
    if len(found) > 1 or TOKENS in found:
        raise LayoutError("it overwrites positions of several axes")
    if under and not over:
        return take(call, under, dim, _left(written, total), total)
    placed = [(over, _placed(written, total))] if over else []
    if under:
        placed.append((under, _left(written, total)))
    return _pieces(call, placed, dim, found.pop(), total)


@handles("index_put")
def _masked(call: Call) -> Value:
    """`self` where a mask does not hold: each value at its place."""
    (mask,) = call["indices"] if len(call["indices"]) == 1 else (None,)
    same = mask is not None and mask.dtype == torch.bool and tuple(mask.shape) == call.shape
    if not same or call["values"].numel() != 1:
        raise LayoutError("it writes positions by a table")
    return join(call, list(call.values()), call.shape)
