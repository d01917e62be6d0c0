"""Products and sums within windows: what the cells of a window see together.

Dimensions of batch that run over positions tell the windows apart.  What is summed, or
compared, within each is read whole; a unit that stays a position reads its own place of
one factor, and the window around it of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from search.analysis.reach import FIRST, IDENTITY, Reach
from search.analysis.tracing.calls import Call, Reads, Value
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.layout import (
    CHANNEL,
    TOKENS,
    Digit,
    Dim,
    axes,
    channels,
    condensed,
    cut,
    length,
    moving,
    reads,
    reshape,
)

Kept = tuple[Digit, Digit | None]  # a digit of the result, and the one that a factor has for it


def within(call: Call, first: Value, second: Value) -> Value | None:
    """The product of two maps, window by window; None where it tells no windows apart.

    Raises:
        LayoutError: what a window holds is no product of rows and columns.
    """
    if not len(first.dims) == len(second.dims) > 2 or any(map(call.builder.whole, (first, second))):
        return None
    *outer, rows, inner = first.dims
    *others, facing, columns = second.dims
    if TOKENS in axes((*first.dims, *second.dims)):
        if axes(map(moving, outer)) and axes(map(moving, others)):
            raise LayoutError(
                "attention within windows that are no grid: not known how far it reads"
            )
        return None
    pairs = paired(outer, others)
    if not any(a.spatial and b.spatial for a, b in pairs):
        return None
    rows_lead = bool(moving(rows)) or not moving(columns)
    leading, free = (0, rows) if rows_lead else (1, columns)
    if any((a.spatial or b.spatial) and not (a, b)[leading].spatial for a, b in pairs):
        raise LayoutError("one window is compared with several: not known how far it reads")
    batch = tuple(pair[leading] for pair in pairs)
    (windows, new), size, _ = condensed((batch, free), call.builder.rank)
    mine: list[Kept] = [(digit, pair[0]) for digit, pair in zip(windows, pairs, strict=True)]
    theirs: list[Kept] = [(digit, pair[1]) for digit, pair in zip(windows, pairs, strict=True)]
    for digit, own in zip(new, free, strict=True):
        mine.append((digit, own if rows_lead else None))
        theirs.append((digit, None if rows_lead else own))
    summed = moving(facing) + (moving(columns) if rows_lead else ())
    how = _window_reads(call, first, mine, moving(inner), size)
    that = _window_reads(call, second, theirs, summed, size)
    if None in how + that:
        call.note("attention along a whole axis reads all of it")
    dims = reshape((windows,), call.shape[:-2])
    pair = [channels(n) for n in call.shape[-2:]]
    pair[leading] = new
    result = call.add([(first.node, how), (second.node, that)], size, (*dims, *pair), "matmul")
    if moving(rows) and moving(columns):  # of the columns only what they see is known
        apart = call.builder.apart
        apart[result.node] = apart.get(result.node, frozenset()) | {first.node, second.node}
    return result


def _window_reads(
    call: Call, value: Value, kept: Sequence[Kept], summed: Dim, size: Sequence[int]
) -> Reads:
    return [
        read_within(have, axis, kept, summed, None, size[axis])
        for axis, have in enumerate(call.size(value))
    ]


def summed_within(
    call: Call, value: Value, left: Sequence[Dim], mixed: Iterable[Dim], full: Reach | None
) -> tuple[Reads, list[int], list[Dim]]:
    """Reads, sizes and dimensions of the sums over `mixed` in each window that `left` tells."""
    new, size, _ = condensed(left, call.builder.rank)
    summed = tuple(digit for dim in mixed for digit in moving(dim))
    kept: list[Kept] = list(zip(chain(*new), chain(*left), strict=True))
    how = [
        read_within(have, axis, kept, summed, full, size[axis])
        for axis, have in enumerate(call.size(value))
    ]
    return how, size, list(new)


def read_within(
    have: int,
    axis: int,
    kept: Iterable[Kept],
    summed: Iterable[Digit],
    full: Reach | None,
    size: int,
) -> Reach | None:
    """What `size` units read of a factor's axis of `have` positions, `summed` united.

    Where `full` is all of the axis, so is a grid over all of it: it grows with the image.
    """
    if have == 1:
        return IDENTITY if size == 1 else FIRST
    moves = (k for k in kept if k[0].axis == axis and k[0].size > 1)
    own = sorted(moves, key=lambda k: -k[0].weight)
    united = [digit for digit in summed if digit.axis == axis]
    if length(digit for _, digit in own if digit and digit.spatial) * length(united) != have:
        raise LayoutError("attention within windows that overlap or leave gaps: not known")
    if full is None and any(digit.weight * digit.size == have for digit in united):
        return full
    dim = tuple(digit or Digit(CHANNEL, 1, after.size) for after, digit in own)
    return reads(dim, axis, united) if any(digit.spatial for digit in dim) else full


def paired(first: Iterable[Dim], second: Iterable[Dim]) -> list[tuple[Digit, Digit]]:
    """The digits of two values' dimensions, cut so that each has its like.

    Raises:
        LayoutError: one of them does not divide, or has its like on another axis.
    """
    a, b = ([digit for dim in dims for digit in dim if digit.size > 1] for dims in (first, second))
    pairs = []
    while a and b:
        small = min(a[0].size, b[0].size)
        for digits in (a, b):
            if digits[0].size > small:
                digits[:1] = cut(digits[0], small)
        pairs.append((a.pop(0), b.pop(0)))
    if any(x.spatial and y.spatial and x.axis != y.axis for x, y in pairs):
        raise LayoutError("its inputs hold their positions in different orders")
    return pairs
