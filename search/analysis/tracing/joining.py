"""Putting maps together: concatenations and stacks, of rows too, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence

from search.analysis.reach import IDENTITY, NOTHING, Reach, compose, within
from search.analysis.tracing.calls import Call, Value, handles
from search.analysis.tracing.elementwise import (
    agree,
    dropped,
    inserted,
    join,
    leading,
    mixed,
    require_alike,
    resized,
    stretched,
)
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.layout import (
    TOKENS,
    Digit,
    Dim,
    along,
    axes,
    channels,
    length,
    moving,
    reads,
    reshape,
)


@handles("cat", "stack")
def _concatenate(call: Call) -> Value:
    tensors = call["tensors"]
    dim = call.arguments.get("dim", 0) % len(call.shape)
    pieces = [(call.find(tensor), tensor.shape) for tensor in tensors]
    if call.name == "stack":
        row = row_of(call, [value for value, _ in pieces if value])
        pieces = [(value and inserted(value, dim, row), (1,) * 9) for value, _ in pieces]
    elif all(size[dim] == 1 and not (value and value.dims[dim]) for value, size in pieces):
        row = row_of(call, [value for value, _ in pieces if value])
        pieces = [(value and resized(value, dim, row), size) for value, size in pieces]
    found = axes(value.dims[dim] for value, _ in pieces if value)
    if not found:
        return concatenate_channels(call, [(value, size[dim]) for value, size in pieces], dim)
    if len(found) > 1 or TOKENS in found:
        tokens: Dim = (Digit(TOKENS, 1, call.shape[dim]),)
        pyramid = _pyramid(call, [value for value, _ in pieces if value])
        if pyramid:
            return Value(pyramid.node, (*pyramid.dims[:dim], tokens, *pyramid.dims[dim + 1 :]))
        return resized(_sequence(call, pieces, dim), dim, tokens)
    values = [value for value, _ in pieces if value]
    if any(moving(value.dims[dim]) for value in values) and row_of(call, values):
        if len({size[dim] for _, size in pieces}) > 1:
            raise LayoutError("rows or columns of several lengths stand one behind the other")
        return _rows_in_line(call, [value for value, _ in pieces], dim)
    starts = [sum(size[dim] for _, size in pieces[:i]) for i in range(len(pieces))]
    placed = [
        (value, placed_at(range(start, start + size[dim]), call.shape[dim]))
        for (value, size), start in zip(pieces, starts, strict=True)
        if value
    ]
    return in_pieces(call, placed, dim, found.pop(), call.shape[dim])


def _sequence(call: Call, pieces: list[tuple[Value | None, tuple[int, ...]]], dim: int) -> Value:
    """Tokens of all `pieces`; keeps in mind where those stand that see as much as all do."""
    shape = list(call.shape)
    shape[dim] = 1
    joined = join(call, [resized(value, dim, ()) for value, _ in pieces if value], shape)
    sequences = call.builder.sequences
    sequence = tuple((size[dim], _part(call, value, dim, joined)) for value, size in pieces)
    if sequences.get(joined.node, sequence) != sequence:
        here = [IDENTITY] * call.builder.rank
        joined = call.add([(joined.node, here)], call.size(joined), joined.dims)
    sequences[joined.node] = sequence
    return joined


def _part(call: Call, value: Value | None, dim: int, joined: Value) -> Dim | None:
    """What `Builder.sequences` tells of a part."""
    seen = [call.builder.seen(value.node, a) for a in range(call.builder.rank)] if value else []
    if value is None or all(reach and reach.empty for reach in seen):
        return ()
    alike = moving(value.dims[dim]) and call.builder.alike((value.node, joined.node))
    return value.dims[dim] if alike else None


def row_of(call: Call, values: list[Value]) -> Dim:
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


def _rows_in_line(call: Call, rows: Sequence[Value | None], dim: int) -> Value:
    """Rows one behind the other in one dimension, of which their number is the major part."""
    row = row_of(call, [value for value in rows if value])
    (axis,), count = axes([row]), len(rows)
    placed = [
        (inserted(value, dim, row), placed_at(range(index, index + 1), count))
        for index, value in enumerate(rows)
        if value
    ]
    whole = in_pieces(call, placed, dim, axis, count)
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


def concatenate_channels(call: Call, pieces: list[tuple[Value | None, int]], dim: int) -> Value:
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


def in_pieces(
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
            (dropped(part, place), placed_at(indices, total))
            for (part, _), indices in zip(pieces, places, strict=True)
            if part
        ]
        return in_pieces(call, placed, dim, found.pop(), total)
    return None


def _rows_apart(
    call: Call, whole: Value, place: int, pieces: list[tuple[Value | None, int]]
) -> Value | None:
    """Rows whose channels were concatenated, where their number becomes a dimension."""
    row = row_of(call, [part for part, _ in pieces if part])
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
    return concatenate_channels(call, turned, order.index(place))


def placed_at(indices: range, total: int) -> Reach:
    """The first of `indices` reads position 0, the next 1; the others of `total` nothing."""
    turns, phase = divmod(indices.start, indices.step)
    phases = [(0, 0)] * indices.step
    phases[phase] = (-turns, 1)
    return confined(Reach(tuple(phases), 1), indices, total)


def confined(reach: Reach, indices: range, total: int) -> Reach:
    """`reach` where `indices` run; everywhere, where they begin and end with `total`."""
    step = indices.step
    start = indices.start if indices.start >= step else 0
    stop = indices.stop if total - indices.stop >= step else total
    return within(reach, start, stop)
