"""The bundle of a module: proved as far as that goes without its code, and no further."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn

from search.analysis.tracing.loading import load_factory
from search.bundles.parts.graph import in_graph, portable
from search.bundles.verify import verify
from search.errors import ConfigError, MachineError
from search.training.foreign import Foreign
from tests.bundles.conftest import Exported, metrics_of, seal, trained_module
from tests.bundles.test_proof import answering


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("of_module")


@pytest.fixture(scope="module")
def given(home: Path) -> Exported:
    """A module that was trained for an epoch, and its bundle."""
    exported, modules = trained_module(home)
    exported.export(exported.bundle, retrain=False, modules=modules)
    (home / "mine.py").rename(home / "gone.py")  # nothing below asks for the code
    return exported


@pytest.fixture
def copied(given: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(given.bundle, tmp_path / "bundle"))


def outcome(bundle: Path) -> dict[str, bool | None]:
    return {found.name: found.ok for found in verify(bundle)}


def test_what_can_be_proved_is_and_the_rest_is_named(given: Exported) -> None:
    checks = {found.name: found for found in verify(given.bundle)}
    assert [name for name, found in checks.items() if found.ok is None] == ["rules", "code"]
    assert not [name for name, found in checks.items() if found.ok is False]
    assert "not computed again: receptive field > 16: 17" in checks["rules"].detail
    assert "mine.py:colored (SHA-256 " in checks["code"].detail
    assert checks["accuracy"].detail.endswith("of 360 test images, by model.onnx alone")
    assert "macs" in checks["numbers"].detail.partition("not checked: ")[2]


def test_it_holds_the_weights_and_nothing_of_this_machine(given: Exported, home: Path) -> None:
    module = load_factory(f"{home}/gone.py:colored")()
    module.load_state_dict(load_file(given.bundle / "model.safetensors"))
    counted = sum(p.numel() for p in module.parameters())
    assert metrics_of(given.bundle)["parameters"] == counted
    names = {path.name for path in given.bundle.iterdir()}
    assert "module.json" in names
    assert not names & {"model.py", "architecture.json", "mine.py"}
    for path in given.bundle.rglob("*.*"):
        assert str(home).encode() not in path.read_bytes(), path


def test_the_report_s_code_runs(
    given: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = (given.bundle / "README.md").read_text()
    assert "Train the network that `mine.py:colored` makes" in report
    assert "| stem.0 | 3×3 conv | 16×16 |" in report
    monkeypatch.chdir(given.bundle)
    exec(report.partition("```python\n")[2].partition("```")[0], {})
    assert int(capsys.readouterr().out) in range(10)


def _described(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def forge(bundle: Path) -> None:
        content = json.loads((bundle / "module.json").read_text())
        change(content)
        (bundle / "module.json").write_text(json.dumps(content))

    return forge


def _weights(name: str) -> Callable[[Path], None]:
    def forge(bundle: Path) -> None:
        weights = load_file(bundle / "model.safetensors")
        weights[name].flatten()[0] += 0.1
        save_file(weights, bundle / "model.safetensors")

    return forge


def _graph(name: str) -> Callable[[Path], None]:
    def forge(bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        (found,) = (each for each in model.graph.initializer if each.name == name)
        array = numpy_helper.to_array(found).copy()
        array.flat[0] += np.float32(100)
        found.CopyFrom(numpy_helper.from_array(array, name))
        onnx.save(model, bundle / "model.onnx")

    return forge


def _stated(key: str, value: Any) -> Callable[[Path], None]:
    def forge(bundle: Path) -> None:
        metrics = metrics_of(bundle)
        metrics[key] = value
        (bundle / "metrics.json").write_text(json.dumps(metrics))

    return forge


FORGERIES = {
    "a rule broken": (
        _described(lambda c: c["network"]["analysis"].update(receptive_field=[9, 9])), "rules"),
    "a weight": (_weights("head.weight"), "onnx = weights"),
    "a filter": (_weights("wide.0.weight"), "onnx = weights"),
    "a bias of the graph": (_graph("head.bias"), "onnx = weights"),
    "fewer parameters": (_described(lambda c: c["parameters"].remove("head.weight")), "weights"),
    "a parameter twice": (_described(lambda c: c["parameters"].append("head.bias")), "weights"),
    "a parameter of nobody": (_described(lambda c: c["parameters"].append("no")), "weights"),
    "fewer MACs": (_stated("macs", 1), "numbers"),
    "another receptive field": (_stated("receptive_field", 61), "numbers"),
    "another network": (_stated("architecture", "0" * 16), "numbers"),
    "no module": (_described(lambda c: c.update(network={})), "files"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_found(copied: Path, forgery: str) -> None:
    forge, name = FORGERIES[forgery]
    forge(copied)
    seal(copied)
    assert outcome(copied)[name] is False


@pytest.mark.parametrize("within", [False, True])
def test_a_graph_that_knows_more_than_the_weights_is_told(copied: Path, within: bool) -> None:
    weights = {name: each.numpy() for name, each in load_file(copied / "model.safetensors").items()}
    before = in_graph((copied / "model.onnx").read_bytes(), weights).own
    model = onnx.load(copied / "model.onnx")
    answering(model, np.zeros((3, 16, 16), np.float32), 1, 10)
    if within:  # the operations themselves
        (image,) = (each for each in model.graph.initializer if each.name == "image")
        model.graph.initializer.remove(image)
        model.graph.node.insert(0, helper.make_node("Constant", [], ["image"], value=image))
    onnx.save(model, copied / "model.onnx")
    seal(copied)
    found = {check.name: check for check in verify(copied)}["onnx = weights"]
    more = 3 * 16 * 16 + 1 + 1 + 10 + 3 + 2
    assert found.ok is None
    assert before < 72  # how many depends on torch's exporter
    assert f"of its own it has {before + more}, but normalizations leave 72 at most" in found.detail


def test_weights_that_the_exporter_turns_are_weights() -> None:
    """A layer on rows, as of a transformer, becomes a multiplication by its weight, turned."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(16, 40)

        def forward(self, x: Any) -> Any:
            return self.mix(x.flatten(1, 2)).mean(1)

    module = Rows()
    graph = portable(Foreign(module, (1, 8, 16)), (1, 8, 16))
    weights = {name: each.numpy() for name, each in module.state_dict().items()}
    assert in_graph(graph, weights).compared == 16 * 40 + 40


def _of(weights: list[onnx.TensorProto]) -> bytes:
    """A graph whose results are its weights."""
    results = [helper.make_empty_tensor_value_info(each.name) for each in weights]
    graph = helper.make_graph([], "g", [], results, weights)
    return bytes(helper.make_model(graph).SerializeToString())


def test_weights_that_nothing_is_computed_from_do_not_count() -> None:
    used, idle = (np.full(4, n, np.float32) for n in (1, 2))
    inits = [numpy_helper.from_array(used, "own"), numpy_helper.from_array(idle, "w")]
    results = [helper.make_empty_tensor_value_info("end")]
    nodes = [helper.make_node("Relu", ["own"], ["end"])]
    graph = helper.make_model(helper.make_graph(nodes, "g", [], results, inits))
    assert in_graph(graph.SerializeToString(), {"w": idle}) == (0, 4, 0)


def test_a_weight_stands_in_one_order() -> None:
    """As any order of the same numbers is another network, a hundred are."""
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    orders = [np.roll(weight, k) for k in range(5)]
    arrays = [weight.T.copy(), *orders, weight.T.copy()]
    inits = [numpy_helper.from_array(each, f"a{n}") for n, each in enumerate(arrays)]
    graph = _of(inits)
    found = in_graph(graph, {"w": weight})
    assert (found.compared, found.own) == (12, 60)  # the copy says nothing more
    tied = in_graph(graph, {"w": weight, "v": weight.copy()})
    assert (tied.compared, tied.own) == (24, 48)


def test_an_empty_weight_is_one() -> None:
    for weight in (np.zeros((0, 4), np.float32), np.zeros((4, 0), np.float32)):
        graph = _of([numpy_helper.from_array(weight, "w")])
        assert in_graph(graph, {"w": weight}) == (0, 0, 0)


def test_code_that_is_not_named_is_not_exported(given: Exported, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"mine\.py:colored is code, which runs only where"):
        given.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_has_no_plain_graph_is_told_before_it_is_trained() -> None:
    class Sums(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.flatten(1).cumsum(1)[:, :10]

    class Fixed(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(len(x), 10, -1).mean(-1)

    for module, message in (
        (Sums(), "CumSum is no operation of a plain"),
        (Fixed(), "len.x. fixes"),
    ):
        with pytest.raises(ConfigError, match=message):
            portable(Foreign(module, (1, 8, 10)), (1, 8, 10))
