"""Contractions: matrix products, reductions over space, softmax."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from search.analysis.reach import IDENTITY, NOTHING, Reach
from search.analysis.tracing.attention import read_within, summed_within, within
from search.analysis.tracing.calls import Call, Reads, Value, handles
from search.analysis.tracing.elementwise import (
    broadcast,
    elementwise,
    gridded,
    join,
    mixed,
    regroup,
    stretched,
)
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.layout import (
    TOKENS,
    Dim,
    along,
    axes,
    channels,
    condensed,
    length,
    moving,
)


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
    if any(len(axes([moving(dim)])) > 1 for dim in left) and TOKENS not in axes(left):
        return summed_within(call, value, left, mixed, full)
    holders, how = regroup(call, value, left, mixed, full)
    size = [1] * len(size)
    for index, axis in enumerate(holders):
        if axis is not None:
            size[axis] = length(left[index])
            left[index] = along(axis, size[axis])
    return how, size, left


def _covers(mixed: Sequence[Dim], axis: int, n: int) -> bool:
    return length(digit for dim in mixed for digit in dim if digit.axis == axis) == n


@handles(
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
    if any(moving(value.dims[dim]) for dim in dims):
        value = gridded(call, value)
    reduced = axes(value.dims[dim] for dim in dims)
    how, size, left = _contract(call, value, dims, NOTHING)
    if reduced:  # one cell is all of a map of one, too
        cells = enumerate(zip(how, call.size(value), strict=True))
        how = [NOTHING if n == 1 and axis in reduced else way for axis, (way, n) in cells]
        value = call.add([(value.node, how)], size, left)
    if not call.arguments.get("keepdim", False):
        gone = {dim % len(left) for dim in dims}
        left = [dim for i, dim in enumerate(left) if i not in gone]
    return mixed(call, value, tuple(left))


@handles("_softmax", "_log_softmax", "_safe_softmax")
def _softmax(call: Call) -> Value:
    value = call.value("self")
    found = axes([moving(value.dims[call["dim"]])])
    if not found:
        return mixed(call, value, value.dims)
    size, summed = call.size(value), moving(value.dims[call["dim"]])
    kept = [(d, None if d in summed else d) for dim in value.dims for d in moving(dim)]
    how = [
        None
        if TOKENS in axes(value.dims)
        else read_within(n, axis, kept, summed, None, n)
        if axis in found
        else IDENTITY
        for axis, n in enumerate(size)
    ]
    if None in how:
        call.note("softmax over positions reads the whole image")
    return call.add([(value.node, how)], size, value.dims)


@handles("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot")
def _matmul(call: Call) -> Value:
    names = {"mat1", "batch1", "mat", "mat2", "batch2", "vec", "vec2", "tensor"}
    factors = [name for name in call.arguments if name in names]
    if call.name in ("mm", "bmm", "mv", "dot"):
        factors = ["self", *factors]
    first, second = (call.optional(name) for name in factors)
    product = _product(call, first, second)
    added = call.optional("self") if call.name.startswith(("add", "badd")) else None
    return join(call, [product, added], call.shape) if added else product


def _product(call: Call, first: Value | None, second: Value | None) -> Value:
    factors = [value for value in (first, second) if value]
    if len(factors) == 2 and all(map(_in_place, factors)):
        return join(call, [_as_product(call, value) for value in factors], call.shape, "matmul")
    attention = first and second and first.moves and second.moves
    if attention or any(map(call.builder.whole, factors)):
        if first and second and attention:
            windowed = within(call, first, second)
            if windowed:
                return windowed
            call.note("a product of two feature maps (attention) reads the whole image")
        return _everywhere(call, first, second)
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
        inputs.append((other.node, stretched(call.size(other), size)))
    dims = _product_dims(call, left, leads)
    result = call.add(inputs, size, dims, "linear")
    if all(moving(dim) == dim for dim in left):
        call.builder.apart.pop(result.node, None)
    return result


def _in_place(value: Value) -> bool:
    """Positions stand in batch dimensions alone: each has a product of its own."""
    return value.moves and not axes(map(moving, value.dims[-2:]))


def _as_product(call: Call, value: Value) -> Value:
    """`value` with the dimensions of rows and columns of the product, which hold channels."""
    return Value(value.node, (*value.dims[:-2], *map(channels, call.shape[-2:])))


def _everywhere(call: Call, first: Value | None, second: Value | None) -> Value:
    """A product whose units see the whole image; the map that they lie on is not lost."""
    dims = tuple(channels(n) for n in call.shape)
    for value, free in ((second, -1), (first, -2)):
        if value is None or len(value.dims) < 2 or len(dims) < 2 or TOKENS in axes(value.dims):
            continue
        if moving(value.dims[free]):
            outer = broadcast(Value(value.node, value.dims[:-2]), call.shape[:-2])
            pair = list(map(channels, call.shape[-2:]))
            pair[free] = value.dims[free]
            dims = (*outer.dims, *pair)
    dims, size, _ = condensed(dims, call.builder.rank)
    nowhere: Reads = [None] * call.builder.rank
    inputs = [(value.node, nowhere) for value in (first, second) if value]
    return call.add(inputs, size, dims, "matmul")


def _product_dims(call: Call, left: list[Dim], leads: bool) -> list[Dim]:
    """The summed dimension gives way to the other factor's."""
    *outer, m, n = [(), (), *left][-max(2, len(left)) :]
    rank = len(call.shape)
    if rank < 2:  # a vector is a factor
        return [m if moving(m) else channels(size) for size in call.shape]
    pair = [m, channels(call.shape[-1])] if leads else [channels(call.shape[-2]), n]
    return [*outer, *pair][-rank:]


def recurrent(call: Call) -> list[Value]:
    """An operation of a recurrent layer."""
    call.note("a recurrent layer reads the whole image")
    rank = call.builder.rank
    nowhere: Reads = [None] * rank
    read = dict.fromkeys(value.node for value in call.values())
    kind = "recurrent" if call.macs else ""
    whole = call.add([(node, nowhere) for node in read], [1] * rank, (), kind)
    outputs = [call.out] if isinstance(call.out, Tensor) else call.out
    return [Value(whole.node, tuple(channels(size) for size in output.shape)) for output in outputs]
