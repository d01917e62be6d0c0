"""Graphs that are no plain network's: refused before they run, bounded if they did."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from search.bundles import isolated
from search.bundles.contents import BundleError
from search.bundles.isolated import RunError
from search.bundles.onnx_graph import numbers_of, require_plain_graph
from tests.bundles.conftest import COMMITTED

GRAPH = (COMMITTED / "model.onnx").read_bytes()
SHAPE = (3, 32, 32)


def made(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    output: onnx.ValueInfoProto | None = None,
) -> bytes:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *SHAPE])
    logits = output or helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(value, key) for key, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [images], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def loop() -> bytes:
    kinds = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "go_on": TensorProto.BOOL}
    i, go, go_on = (helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items())
    given, taken = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("v", "w"))
    nodes = [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["v"], ["w"])]
    body = helper.make_graph(nodes, "body", [i, go, given], [go_on, taken])
    node = helper.make_node("Loop", ["n", "yes", "images"], ["logits"], body=body)
    return made([node], {"n": np.array(10**9), "yes": np.array(True)})


def huge() -> bytes:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceMean", ["big"], ["logits"]),
    ]
    return made(nodes, {"shape": np.array([10**6, 10**6])})


def sequence() -> bytes:
    output = helper.make_tensor_sequence_value_info("logits", TensorProto.FLOAT, None)
    return made([helper.make_node("SequenceConstruct", ["images"], ["logits"])], output=output)


def doubled() -> bytes:
    """Each step twice as large: the operators are plain, the memory is not."""
    names = ["images", *(f"x{n}" for n in range(30)), "logits"]
    steps = pairwise(names)
    return made([helper.make_node("Concat", [a, a], [b], axis=0) for a, b in steps])


def ranged() -> bytes:
    ends = {"a": np.float32(0), "b": np.float32(1e12), "c": np.float32(1)}
    nodes = [helper.make_node("Range", ["a", "b", "c"], ["logits"])]
    return made(nodes, {key: np.array(value) for key, value in ends.items()})


def edited(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(GRAPH)
    change(model)
    content: bytes = model.SerializeToString()
    return content


def outside(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    elsewhere(tensor)


def elsewhere(tensor: onnx.TensorProto) -> None:
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"


def weights_outside(model: onnx.ModelProto) -> None:
    outside(model.graph.initializer[0])


def weights_elsewhere(model: onnx.ModelProto) -> None:
    elsewhere(model.graph.initializer[0])


def weights_nowhere(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def constant_outside(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "x")
    outside(tensor)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["x"], value=tensor))


def custom_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def operator_with_colors(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "\x1b[31mConv"


def function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Identity", ["x"], ["y"])]
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("own", "Conv", ["x"], ["y"], body, opset))


def graph_inside(model: onnx.ModelProto) -> None:
    attribute = helper.make_attribute("body", helper.make_graph([], "g", [], []))
    model.graph.node[0].attribute.append(attribute)


def graphs_inside(model: onnx.ModelProto) -> None:
    attribute = helper.make_attribute("body", [helper.make_graph([], "g", [], [])])
    model.graph.node[0].attribute.append(attribute)


def sparse() -> onnx.SparseTensorProto:
    value, index = (numpy_helper.from_array(np.ones(1, kind), "x") for kind in ("f4", "i8"))
    return helper.make_sparse_tensor(value, index, [3])


def sparse_weights(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(sparse())


def sparse_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse()))


def training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def operator_of_others(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "MaxPool"


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def no_output(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def many_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend([helper.make_node("Identity", ["a"], ["b"])] * 10_001)


@pytest.mark.parametrize(
    "change",
    [weights_outside, weights_elsewhere, weights_nowhere, constant_outside, custom_domain,
     operator_with_colors, function, graph_inside, graphs_inside, sparse_weights, sparse_constant,
     training, operator_of_others, two_inputs, no_output, many_nodes],
)  # fmt: skip
def test_what_no_network_needs_is_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    require_plain_graph(GRAPH)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        require_plain_graph(edited(change))


def test_modules_of_others_have_more_operators() -> None:
    require_plain_graph(edited(operator_of_others), foreign=True)
    require_plain_graph(GRAPH, foreign=True)
    with pytest.raises(BundleError, match=r"com\.microsoft\.\w+ is no operation"):
        require_plain_graph(edited(custom_domain), foreign=True)


@pytest.mark.parametrize("content", [loop(), huge(), sequence(), b"", b"\0" * 99, b"noise" * 99])
def test_what_is_no_network_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx") as told:
        require_plain_graph(content)
    assert len(str(told.value).splitlines()) == 1


def array(kind: int, *dims: int, **content: Any) -> TensorProto:
    return TensorProto(name="w", data_type=kind, dims=dims, **content)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(
    "tensor",
    [array(TensorProto.FLOAT, 10**6, 10**6), array(TensorProto.UNDEFINED, 2), array(99, 2),
     array(TensorProto.FLOAT, 2, raw_data=b"123"), array(TensorProto.BFLOAT16, 1, raw_data=b"12"),
     array(TensorProto.STRING, 1, string_data=[b"1"])],
)  # fmt: skip
def test_what_is_no_array_of_numbers_is_told(tensor: TensorProto, within: bool) -> None:
    def change(model: onnx.ModelProto) -> None:
        if within:
            model.graph.node.append(helper.make_node("Constant", [], ["w"], value=tensor))
        else:
            model.graph.initializer.append(tensor)

    with pytest.raises(BundleError, match=r"^model\.onnx: w (is no array|holds )"):
        numbers_of(edited(change))


def test_each_number_of_an_operation_counts() -> None:
    def change(model: onnx.ModelProto) -> None:
        for name, value in (("value_float", 0.5), ("value_ints", [1, 2]), ("value_string", "3")):
            model.graph.node.append(helper.make_node("Constant", [], [name], **{name: value}))

    _, before = numbers_of(GRAPH)
    assert numbers_of(edited(change))[1] == before + 4


def test_two_weights_of_one_name_are_told() -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(model.graph.initializer[0])

    with pytest.raises(BundleError, match="two weights of one name"):
        numbers_of(edited(change))


@pytest.mark.parametrize("make", [huge, doubled, ranged])
def test_memory_is_bounded(make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "MEMORY", 2**29)
    with pytest.raises(RunError), isolated.onnx(make(), SHAPE, 0) as logits:
        logits(np.zeros((64, *SHAPE), np.float32))


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "START", 1)
    with (
        pytest.raises(RunError, match="took longer than 1 s"),
        isolated.onnx(loop(), SHAPE, 0) as logits,
    ):
        logits(np.zeros((1, *SHAPE), np.float32))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Cast", ["images"], ["logits"], to=TensorProto.DOUBLE), "float64"),
        (helper.make_node("Cast", ["images"], ["logits"], to=TensorProto.STRING), "object"),
        (helper.make_node("SequenceConstruct", ["images"], ["logits"]), "list"),
    ],
)
def test_only_one_array_of_float32_is_an_answer(node: onnx.NodeProto, message: str) -> None:
    output = (
        helper.make_tensor_sequence_value_info("logits", TensorProto.FLOAT, None)
        if message == "list"
        else helper.make_tensor_value_info("logits", node.attribute[0].i, None)
    )
    with (
        pytest.raises(RunError, match=f"gives {message}, not one array"),
        isolated.onnx(made([node], output=output), SHAPE, 0) as logits,
    ):
        logits(np.zeros((2, *SHAPE), np.float32))
