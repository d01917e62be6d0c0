"""Elements that were moved about in ways that are no product of digits, until they are one.

Relative positions, say, are made absolute by a shear: the rows are padded, cut anew at another
length, and lose their ends.  Where an operation that only moves elements cannot be read, torch
moves their numbers as it moves the elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from search.analysis.tracing.calls import Call, Value, public_name
from search.analysis.tracing.elementwise import laid, mixed
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.layout import CHANNEL, Digit, Dim, length, positions

MOVING = frozenset({
    "view", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze", "permute", "transpose", "t",
    "expand", "repeat", "slice", "select", "split", "split_with_sizes", "unbind", "unsafe_split",
    "unsafe_split_with_sizes", "unfold", "flip", "roll", "constant_pad_nd", "clone", "detach",
    "alias",
})  # fmt: skip
MOST = 2**22  # elements that are numbered: a few of their copies take 100 MB


@dataclass(frozen=True)
class Moved:
    """Elements of `source` by number, from 1 on, and 0 for what is none of them; and why they
    cannot be read."""

    source: Value
    numbers: Tensor
    reason: str


def numbered(call: Call, value: Value, reason: str) -> Moved:
    """`value` before it is moved.

    Raises:
        LayoutError: with `reason`, where it is not known which position each element has.
    """
    shape, digits = list(map(length, value.dims)), list(chain(*value.dims))
    if math.prod(shape) > MOST:
        raise LayoutError(reason)
    for axis, n in enumerate(call.size(value)):
        if n != length(digit for digit in digits if digit.axis == axis):
            raise LayoutError(reason)
    numbers = torch.arange(1, math.prod(shape) + 1).view(shape)
    since = f"its positions are in no grid since {public_name(call.name)!r}: {reason}"
    return Moved(mixed(call, value, value.dims), numbers, since)


def move(call: Call, before: Moved, run: Callable[[Tensor], object]) -> list[Value | Moved]:
    """What `run` makes of the elements: values where they stand in products of digits.

    Raises:
        LayoutError: nothing is left; an empty part of several may stay unread.
    """
    if call.name == "constant_pad_nd":  # by what, does not matter
        after: object = F.pad(before.numbers, call["pad"])
    elif "view" in call.name or call.name == "_reshape_alias":  # whatever its memory allows
        after = before.numbers.reshape(call.shape)
    else:
        after = run(before.numbers)
    if isinstance(after, Tensor) and not after.numel():
        raise LayoutError("it leaves a map without positions")
    return [
        _found(call, before.source, numbers) or Moved(before.source, numbers, before.reason)
        for numbers in tree_leaves(after)
    ]


def _found(call: Call, source: Value, numbers: Tensor) -> Value | None:
    """The value whose elements stand as `numbers` say; None where that is no product, or
    nothing."""
    if not (numbers.numel() and numbers.all()):
        return None
    places = torch.stack(
        [_positions(source, axis)[numbers - 1] for axis in range(call.builder.rank)], -1
    )
    first = places[(0,) * numbers.dim()]
    lines, together = [], first
    for dim, size in enumerate(numbers.shape):
        line = places[(0,) * dim + (slice(None),) + (0,) * (numbers.dim() - dim - 1)] - first
        together = together + line.view(size, *[1] * (numbers.dim() - dim - 1), -1)
        lines.append(line)
    if not torch.equal(places, together):
        return None
    dims = [_digits(line) for line in lines]
    known = tuple(dim for dim in dims if dim is not None)
    return laid(call, source, known, first.tolist()) if len(known) == len(dims) else None


def _positions(value: Value, axis: int) -> Tensor:
    """Of each element on an axis of the map, the elements in a row."""
    result = torch.zeros(1, dtype=torch.long)
    for dim in value.dims:
        result = (result[:, None] + torch.tensor(positions(dim, axis))).view(-1)
    return result


def _digits(line: Tensor) -> Dim | None:
    """The digits that lead from the first index to each one of a `line` of positions."""
    count = len(line)
    if count == 1:
        return ()
    step = line[1]
    if (step != 0).sum() > 1 or (step < 0).any():
        return None
    even = (line == step * torch.arange(count)[:, None]).all(1)
    run = count if even.all() else int(even.long().argmin())
    size = max(n for n in range(1, run + 1) if count % n == 0)
    major = line[::size]
    cells = step * torch.arange(size)[:, None]
    if size == 1 or not torch.equal(line, (major[:, None] + cells).flatten(0, 1)):
        return None
    outer, axis = _digits(major), int(step.argmax()) if step.any() else CHANNEL
    return None if outer is None else (*outer, Digit(axis, int(step.max()) or 1, size))
