"""What a bundle's ONNX graph may be made of: the operators of a plain network, and no file."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from search.bundles.contents import BundleError

_NODES = 10_000
# What torch's exporter makes of the layers of a plain network, now and in releases before.
_OPERATORS = frozenset(
    {
        *("Conv", "BatchNormalization", "Gemm", "MatMul", "Add", "Mul", "Div", "Sub", "Pow"),
        *("Relu", "Gelu", "Sigmoid", "Swish", "HardSwish", "HardSigmoid", "Erf", "Tanh", "Clip"),
        *("GlobalAveragePool", "AveragePool", "ReduceMean", "Flatten", "Reshape", "Transpose"),
        *("Squeeze", "Unsqueeze", "Identity", "Constant", "Shape", "Gather", "Concat", "Cast"),
        *("Pad", "Slice", "Range", "QuantizeLinear", "DequantizeLinear"),
    }
)
_INLINE = (onnx.TensorProto.DEFAULT,)


def require_plain_graph(content: bytes, name: str = "model.onnx") -> None:
    """Accepts a graph of plain layers, the content of file `name`.

    Raises:
        BundleError: it has something else, or keeps weights in other files.
    """
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own class, which onnx does not hand on
        raise BundleError(f"{name}: {error}") from None
    graph = model.graph
    if len(graph.node) > _NODES or model.functions or model.training_info:
        raise BundleError(f"{name} holds functions, or more than {_NODES:,} operations")
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in _OPERATORS:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise BundleError(f"{name}: {kind} is no operation of a plain network")
    for tensor in _tensors(graph, name):
        if tensor.external_data or tensor.data_location not in _INLINE:
            raise BundleError(f"{name} keeps {tensor.name} outside of the bundle")
    if graph.sparse_initializer or len(graph.input) != 1 or len(graph.output) != 1:
        raise BundleError(f"{name} must have one input, one output and dense weights")


def _tensors(graph: onnx.GraphProto, name: str) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
                raise BundleError(f"{name}: {node.op_type} holds a graph of its own")
