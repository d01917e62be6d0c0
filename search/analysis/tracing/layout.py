"""Where the positions of a feature map stand in a tensor that holds it.

A tensor's dimension is an ordered product of *digits*, the major one first, as the digits
of a number.  A digit runs along a spatial axis of the map in steps of its weight, or along
something on which the receptive field does not depend (channels, copies).  Reshape and
permute move digits about; so patches, shuffled channels, space-to-depth and windows keep
an exact account of which position is where.

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from search.analysis.reach import Reach, listed
from search.analysis.tracing.errors import LayoutError

CHANNEL = -1
TOKENS = -2  # positions of all axes, in an order that is no product any more


class Digit(NamedTuple):
    """`axis` is a spatial axis, `CHANNEL` or `TOKENS`; value v adds `v * weight` to it."""

    axis: int
    weight: int
    size: int

    @property
    def spatial(self) -> bool:
        return self.axis != CHANNEL


Dim = tuple[Digit, ...]
Dims = tuple[Dim, ...]


def channels(size: int) -> Dim:
    """A dimension on which the receptive field does not depend."""
    return (Digit(CHANNEL, 1, size),) if size > 1 else ()


def along(axis: int, size: int) -> Dim:
    """A dimension that is a whole spatial axis; kept at size 1 too, to know it again."""
    return (Digit(axis, 1, size),)


def length(dim: Iterable[Digit]) -> int:
    """Size of a dimension."""
    return math.prod(digit.size for digit in dim)


def axes(dims: Iterable[Dim]) -> set[int]:
    """Spatial axes (and `TOKENS`) that run along some of `dims`."""
    return {digit.axis for dim in dims for digit in dim if digit.spatial}


def moving(dim: Dim) -> Dim:
    """The spatial digits of more than one position."""
    return tuple(digit for digit in dim if digit.spatial and digit.size > 1)


def reshape(dims: Dims, shape: Sequence[int]) -> Dims:
    """Digits in the same order, cut anew.

    Raises:
        LayoutError: a cut falls inside a digit that does not divide.
    """
    rest = _merged(digit for dim in dims for digit in dim)
    result = []
    for size, following in zip(shape, [*shape[1:], 0], strict=True):
        group: list[Digit] = []
        missing = size
        while rest and missing > 1:
            digit = rest.pop(0)
            if missing % digit.size:
                digit, minor = cut(digit, missing)
                rest.insert(0, minor)
            group.append(digit)
            missing //= digit.size
        if size == 1 and rest and rest[0].size == 1:
            group.append(rest.pop(0))
        while following != 1 and rest and rest[0].size == 1:
            group.append(rest.pop(0))
        result.append(tuple(group))
    return tuple(result)


def _merged(digits: Iterable[Digit]) -> list[Digit]:
    result: list[Digit] = []
    for digit in digits:
        last = result[-1] if result else None
        if last and last.axis == digit.axis == CHANNEL:
            result[-1] = Digit(CHANNEL, 1, last.size * digit.size)
        elif (
            last
            and last.axis == digit.axis >= 0
            and last.weight == digit.weight * digit.size
            and digit.size > 1
        ):
            result[-1] = Digit(digit.axis, digit.weight, last.size * digit.size)
        else:
            result.append(digit)
    return result


def cut(digit: Digit, major: int) -> tuple[Digit, Digit]:
    """Two digits for one, the first of which has `major` values.

    Raises:
        LayoutError: it does not divide.
    """
    if digit.axis == TOKENS or digit.size % major:
        raise LayoutError(f"a dimension of {digit.size} positions or channels is cut at {major}")
    minor = digit.size // major
    return (
        Digit(digit.axis, digit.weight * minor if digit.spatial else 1, major),
        Digit(digit.axis, digit.weight, minor),
    )


def condensed(dims: Iterable[Dim], rank: int) -> tuple[Dims, list[int], list[Dim]]:
    """`dims` of a map that runs along them alone, its sizes, and the digits of each axis as they
    were, the major ones first."""
    new, size = [list(dim) for dim in dims], [1] * rank
    old: list[Dim] = [()] * rank
    digits = ((digit, i, j) for i, dim in enumerate(new) for j, digit in enumerate(dim))
    for digit, i, j in sorted(digits, key=lambda entry: (entry[0].weight, entry[0].size)):
        if digit.spatial and digit.size > 1:
            new[i][j] = digit._replace(weight=size[digit.axis])
            size[digit.axis] *= digit.size
            old[digit.axis] = (digit, *old[digit.axis])
    return tuple(map(tuple, new)), size, old


def reads(dim: Dim, axis: int, mixed: Iterable[Digit]) -> Reach:
    """Positions of `axis` at each index of `dim`, united over the values of `mixed`.

    An index between the digits of the axis repeats positions; one above them makes seams.
    """
    mask = 1
    for digit in mixed:
        if digit.axis == axis:
            mask = sum(mask << value * digit.weight for value in range(digit.size))
    minor = dim[1:] if dim and dim[0].axis == axis else dim
    firsts = positions(minor, axis)
    if dim and dim[0].axis != axis:
        return listed(firsts, mask)
    return Reach(tuple((first, mask) for first in firsts), dim[0].weight if dim else 1)


def positions(dim: Dim, axis: int) -> list[int]:
    """Of each index of `dim` on `axis`, from the first on."""
    result = [0]
    for digit in dim:
        step = digit.weight if digit.axis == axis else 0
        result = [first + value * step for first in result for value in range(digit.size)]
    return result


def same(a: Dim, b: Dim) -> bool:
    """Both run over the same positions in the same order."""
    return _merged(d for d in a if d.size > 1) == _merged(d for d in b if d.size > 1)
