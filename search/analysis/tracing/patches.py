"""Patches of a map: cut out, added up, unfolded."""

from __future__ import annotations

from collections.abc import Iterable

from search.analysis.chains import convolved
from search.analysis.graph import Window
from search.analysis.reach import IDENTITY, Reach, compose
from search.analysis.tracing.calls import Call, Value, handles
from search.analysis.tracing.elementwise import laid, regroup, resized
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.layout import Digit, axes, channels, length, moving, reshape
from search.analysis.tracing.windows import every, transposed, windowed

Steps = list[tuple[int, ...]]  # kernel, stride, padding and dilation per axis


@handles("im2col")
def _im2col(call: Call) -> Value:
    """Cells of patches in the channels, places of patches in one dimension."""
    value, steps = call.value("self"), _steps(call)
    holders, base = regroup(call, value, value.dims[2:], value.dims[1:2])
    if holders != [0, 1] or axes(value.dims[:1]):
        raise LayoutError("it makes patches of something other than rows and columns")
    counts = _counts(map(length, value.dims[2:]), steps)
    size = [count * step[0] for count, step in zip(counts, steps, strict=True)]
    how = [
        below and compose(_cells_of_patches(*step), below, n)
        for step, below, n in zip(steps, base, size, strict=True)
    ]
    cells = tuple(Digit(axis, 1, step[0]) for axis, step in enumerate(steps))
    places = tuple(Digit(axis, steps[axis][0], count) for axis, count in enumerate(counts))
    maps = channels(call.shape[1] // length(cells))
    return call.add([(value.node, how)], size, ((), maps + cells, places))


@handles("col2im")
def _col2im(call: Call) -> Value:
    """Patches added up where they lie; of each all that its cells are made of."""
    value, steps = call.value("self"), _steps(call)
    apart = call.builder.apart.get(value.node, ())
    if moving(value.dims[1]) or not call.builder.alike(apart):
        raise LayoutError("it adds up patches whose cells see different places")
    counts = _counts(call["output_size"], steps)
    dims = (*value.dims[:2], *reshape(value.dims[2:], counts))
    how = [transposed(*step) for step in steps]
    return windowed(call, Value(value.node, dims), 2, how, "", Window.cell(2))


def _counts(sizes: Iterable[int], steps: Steps) -> list[int]:
    """How many patches there are along each axis."""
    axes = zip(sizes, steps, strict=True)
    return [convolved(n, kernel, stride, 2 * p, d) for n, (kernel, stride, p, d) in axes]


def _steps(call: Call) -> Steps:
    """Kernel, stride, padding and dilation of patches, per axis."""
    names = ("kernel_size", "stride", "padding", "dilation")
    return list(zip(*(every(call[name], 2) for name in names), strict=True))


def _cells_of_patches(kernel: int, stride: int, padding: int, dilation: int) -> Reach:
    """Patch by patch what each of its cells reads."""
    if (stride, padding, dilation) == (kernel, 0, 1):
        return IDENTITY
    return Reach(tuple((tap * dilation - padding, 1) for tap in range(kernel)), stride)


@handles("unfold")
def _unfold(call: Call) -> Value:
    """Windows along one dimension, their cells along a new one."""
    value, dim = call.value("self"), call["dimension"] % (len(call.shape) - 1)
    if len(value.dims[dim]) != 1:
        raise LayoutError("it makes windows of positions or channels that stand by turns")
    digit = value.dims[dim][0]
    starts = digit._replace(weight=digit.weight * call["step"], size=call.shape[dim])
    new = resized(value, dim, (starts,))
    cells = (digit._replace(size=call["size"]),)
    return laid(call, value, (*new.dims, cells), [0] * call.builder.rank)
