"""A bundle's ONNX graph: how it is made, and what it may be made of: the operators of a plain
network, and no file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from search.bundles.contents import BundleError

ONNX_OPSET = 20
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
_FURTHER = frozenset(  # of the layers of others' modules
    {
        *("MaxPool", "GlobalMaxPool", "ConvTranspose", "Resize", "DepthToSpace", "SpaceToDepth"),
        *("LayerNormalization", "GroupNormalization", "InstanceNormalization", "LRN", "Softmax"),
        *("LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Mish", "Softplus", "Softsign", "Exp"),
        *("Log", "Sqrt", "Neg", "Abs", "Reciprocal", "Max", "Min", "Where", "Equal", "Expand"),
        *("ReduceMax", "ReduceSum", "ReduceL2", "Split", "Einsum", "LogSoftmax", "Sum", "Mean"),
    }
)
_INLINE = (onnx.TensorProto.DEFAULT,)
_COMPARED = frozenset(
    {
        *(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE),
        *(onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32),
        *(onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT32),
        *(onnx.TensorProto.INT64, onnx.TensorProto.UINT64, onnx.TensorProto.BOOL),
    }
)


def onnx_graph(network: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """`network` as ONNX: `images` (N, *shape) to `logits` (N, classes).

    Its weights lie channels first from then on: of others torch pools with `as_strided`, in ONNX a
    loop over sequences.
    """
    network.to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings():  # torch 2.11 copies what it has deprecated itself
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=ONNX_OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    # torch writes the source lines, with their paths on this machine, into every node.
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, model.graph):
        item.ClearField("metadata_props")
    for value in (*model.graph.value_info, *model.graph.initializer):
        value.ClearField("metadata_props")
    onnx.checker.check_model(model)
    graph: bytes = model.SerializeToString()
    return graph


def require_plain_graph(content: bytes, name: str = "model.onnx", *, foreign: bool = False) -> None:
    """Accepts a graph of plain layers, the content of file `name`; with `foreign` also of those
    that the generator has not.

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
    known = _OPERATORS | _FURTHER if foreign else _OPERATORS
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in known:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise BundleError(f"{name}: {kind} is no operation of a plain network")
    for tensor in _tensors(graph, name):
        if tensor.external_data or tensor.data_location not in _INLINE:
            raise BundleError(f"{name} keeps {tensor.name} outside of the bundle")
    if graph.sparse_initializer or len(graph.input) != 1 or len(graph.output) != 1:
        raise BundleError(f"{name} must have one input, one output and dense weights")


def numbers_of(content: bytes) -> tuple[dict[str, NDArray[Any]], int]:
    """The weights that a plain graph computes with, by name, and how many numbers its operations
    hold beside them.

    Raises:
        BundleError: one is no array of numbers, or two have one name.
    """
    graph = onnx.load_model_from_string(content).graph
    weights = {each.name: _array(each) for each in graph.initializer}
    if len(weights) < len(graph.initializer):
        raise BundleError("model.onnx has two weights of one name")
    used = _used(graph)
    constants = (node for node in graph.node if node.op_type == "Constant")
    held = sum(_held(each) for node in constants for each in node.attribute)
    return {name: array for name, array in weights.items() if name in used}, held


def _used(graph: onnx.GraphProto) -> set[str]:
    """The names of what the result is computed from."""
    made = {output: node for node in graph.node for output in node.output}
    used: set[str] = set()
    pending = [result.name for result in graph.output]
    while pending:
        name = pending.pop()
        if name not in used:
            used.add(name)
            pending += made[name].input if name in made else ()
    return used


def _held(attribute: onnx.AttributeProto) -> int:
    """The numbers of an attribute: an array, a list, or one."""
    if attribute.HasField("t"):
        return _array(attribute.t).size
    lists = (attribute.floats, attribute.ints, attribute.strings)
    return sum(map(len, lists)) or 1


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    # By what the file says: of the others, some versions of onnx make float32.
    if tensor.data_type not in _COMPARED:
        raise BundleError(f"model.onnx: {tensor.name} holds what nothing compares")
    try:
        array: NDArray[Any] = numpy_helper.to_array(tensor)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BundleError(f"model.onnx: {tensor.name} is no array ({error})") from None
    return array


def _tensors(graph: onnx.GraphProto, name: str) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
                raise BundleError(f"{name}: {node.op_type} holds a graph of its own")
