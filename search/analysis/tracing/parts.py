"""Taking maps apart: slices, splits, mirrors, shifts, pads."""

from __future__ import annotations

from itertools import accumulate

from search.analysis.reach import IDENTITY, NOTHING, Reach, compose, listed, window
from search.analysis.tracing.calls import Call, Value, handles
from search.analysis.tracing.elementwise import (
    dropped,
    mixed,
    resized,
)
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.joining import concatenate_channels
from search.analysis.tracing.layout import (
    TOKENS,
    Digit,
    along,
    axes,
    channels,
    length,
    moving,
    reads,
)


def take(call: Call, value: Value, dim: int, how: Reach, count: int) -> Value:
    """`count` indices of one dimension, read at `how`."""
    if not count:
        raise LayoutError("it leaves a map without positions")
    dims = list(value.dims)
    dim %= len(dims)
    found = axes([moving(dims[dim])]) or axes([dims[dim]])
    if not found:
        return _take_channels(call, value, dim, how, count)
    if len(found) > 1 or TOKENS in found:
        return _take_tokens(call, value, dim, how, count)
    axis = found.pop()
    if axis in axes(dims[:dim] + dims[dim + 1 :]):
        raise LayoutError("it cuts positions that stand in several dimensions")
    if moving(dims[dim]) and moving(dims[dim]) != dims[dim]:
        raise LayoutError("it cuts positions and channels that stand by turns in one dimension")
    size, base = list(call.size(value)), [IDENTITY] * call.builder.rank
    base[axis] = compose(how, reads(dims[dim], axis, ()), count)
    known = call.builder.rows.get(value.node, ())
    one_of_several = size[axis] > count == 1
    size[axis], dims[dim] = count, along(axis, count)
    taken = call.add([(value.node, base)], size, dims)
    if one_of_several:
        call.builder.rows[taken.node] = (*known, axis)
    return taken


def _take_tokens(call: Call, value: Value, dim: int, how: Reach, count: int) -> Value:
    """One of the parts that the sequence was put together from, or tokens in any order."""
    builder, rank = call.builder, call.builder.rank
    if axes([value.dims[dim]]) & axes(value.dims[:dim] + value.dims[dim + 1 :]):
        raise LayoutError("it cuts positions that stand in several dimensions")
    whole, sequence = builder.whole(value), builder.sequences.get(value.node, ())
    starts = accumulate((size for size, _ in sequence), initial=0)
    parts = {
        (window(1, 1, -start), size): part
        for start, (size, part) in zip(starts, sequence, strict=False)
    }
    part = (
        parts.get((how, count)) if length(value.dims[dim]) == sum(n for n, _ in sequence) else None
    )
    if part:
        return resized(value, dim, part)
    if part == () or (whole and count == 1):
        alone = resized(value, dim, channels(count))
        return call.add([(value.node, [None if whole else NOTHING] * rank)], [1] * rank, alone.dims)
    taken = resized(value, dim, (Digit(TOKENS, 1, count),))
    if not sequence:
        return taken
    taken = call.add([(value.node, [IDENTITY] * rank)], call.size(value), taken.dims)
    del builder.sequences[taken.node]
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
    return dropped(take(call, value, dim, window(1, 1, -index), 1), dim)


@handles("split", "split_with_sizes", "unbind", "unsafe_split", "unsafe_split_with_sizes")
def _split(call: Call) -> list[Value]:
    value, dim = call.value("self"), call["dim"] % len(call.value("self").dims)
    result, start = [], 0
    for part in call.out:
        count = 1 if call.name == "unbind" else part.shape[dim]
        taken = take(call, value, dim, window(1, 1, -start), count)
        result.append(dropped(taken, dim) if call.name == "unbind" else taken)
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
    return concatenate_channels(call, taken, dim)
