"""Operations that move values without computing: views, permutations, copies."""

from __future__ import annotations

from search.analysis.tracing.calls import Call, Value, handles
from search.analysis.tracing.elementwise import broadcast, mixed
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.joining import interleaved, permuted
from search.analysis.tracing.layout import channels, length, moving, reshape


@handles("view", "_unsafe_view", "_reshape_alias")
def _view(call: Call) -> Value:
    value = call.value("self")
    return interleaved(call, value) or Value(value.node, reshape(value.dims, call.shape))


@handles("as_strided")
def _as_strided(call: Call) -> Value:
    value, tensor = call.value("self"), call["self"]
    same_shape = tuple(map(length, value.dims)) == call.shape
    # Equal shapes are not enough: other strides transpose, another offset shifts.
    same_memory = (tuple(call["stride"]), call["storage_offset"] or 0) == (
        tensor.stride(),
        tensor.storage_offset(),
    )
    if not (same_shape and same_memory):
        raise LayoutError("it addresses memory, not positions")
    return value


@handles("unsqueeze")
def _unsqueeze(call: Call) -> Value:
    value = call.value("self")
    dims = list(value.dims)
    dims.insert(call["dim"] % (len(dims) + 1), ())
    return Value(value.node, tuple(dims))


@handles("squeeze")
def _squeeze(call: Call) -> Value:
    value = call.value("self")
    rank = len(value.dims)
    asked = call.arguments.get("dim", range(rank))
    asked = {dim % rank for dim in ([asked] if isinstance(asked, int) else asked)}
    kept = (d for i, d in enumerate(value.dims) if i not in asked or length(d) > 1)
    return Value(value.node, tuple(kept))


@handles("permute", "transpose", "t")
def _permute(call: Call) -> Value:
    value = call.value("self")
    order = list(range(len(value.dims)))
    if call.name == "permute":
        order = [dim % len(order) for dim in call["dims"]]
    else:
        a, b = (call["dim0"], call["dim1"]) if call.name == "transpose" else (0, -1)
        order[a], order[b] = order[b], order[a]
    return permuted(call, value, order)


@handles("expand")
def _expand(call: Call) -> Value:
    return broadcast(call.value("self"), call.shape)


@handles("repeat")
def _repeat(call: Call) -> Value:
    value = call.value("self")
    own = ((),) * (len(call.shape) - len(value.dims)) + value.dims
    dims = []
    for dim, size in zip(own, call.shape, strict=True):
        if length(dim) != size and moving(dim):
            raise LayoutError("positions are repeated")
        dims.append(dim if length(dim) == size else channels(size))
    return Value(value.node, tuple(dims))


@handles("pixel_shuffle", "pixel_unshuffle", "native_channel_shuffle", "channel_shuffle")
def _shuffle(call: Call) -> Value:
    value = call.value("self")
    *batch, c, h, w = value.dims
    if "channel" in call.name:
        return mixed(call, value, value.dims)
    if call.name == "pixel_shuffle":
        r = call["upscale_factor"]
        (outer, down, right), rows, columns = reshape((c,), (length(c) // r**2, r, r)), h, w
        return Value(value.node, (*batch, outer, rows + down, columns + right))
    r = call["downscale_factor"]
    (rows, down), (columns, right) = (reshape((d,), (length(d) // r, r)) for d in (h, w))
    return Value(value.node, (*batch, c + down + right, rows, columns))
