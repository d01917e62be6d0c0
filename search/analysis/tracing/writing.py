"""Writing into maps: slices, single indices and masked values replaced."""

from __future__ import annotations

import torch

from search.analysis.reach import IDENTITY, Reach, unite, within
from search.analysis.tracing.calls import Call, Value, handles
from search.analysis.tracing.elementwise import (
    inserted,
    join,
    resized,
)
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.joining import confined, in_pieces, placed_at, row_of
from search.analysis.tracing.layout import TOKENS, Digit, axes, channels, moving
from search.analysis.tracing.parts import take


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
        over = inserted(over, dim, row_of(call, [over]))
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
        if not all(map(call.builder.whole, parts)):
            raise LayoutError("it overwrites positions of several axes")
        shape = (*call.shape[:dim], 1, *call.shape[dim + 1 :])
        together = join(call, [resized(value, dim, ()) for value in parts], shape)
        return resized(together, dim, (Digit(TOKENS, 1, total),))
    if under and not over:
        return take(call, under, dim, _left(written, total), total)
    placed = [(over, placed_at(written, total))] if over else []
    if under:
        placed.append((under, _left(written, total)))
    return in_pieces(call, placed, dim, found.pop(), total)


def _left(indices: range, total: int) -> Reach:
    """Every position of `total` but `indices`, in its place."""
    step, whole = indices.step, range(total)
    phases = tuple((i, int(i != indices.start % step)) for i in range(step))
    left = confined(Reach(phases, step), indices, total)
    for rest in (whole[: indices.start], whole[indices.stop :]):
        if len(rest) >= step:
            left = unite(left, within(IDENTITY, rest.start, rest.stop), total)
    return left


@handles("index_put")
def _masked(call: Call) -> Value:
    """`self` where a mask does not hold: each value at its place."""
    (mask,) = call["indices"] if len(call["indices"]) == 1 else (None,)
    same = mask is not None and mask.dtype == torch.bool and tuple(mask.shape) == call.shape
    if not same or call["values"].numel() != 1:
        raise LayoutError("it writes positions by a table")
    return join(call, list(call.values()), call.shape)
