"""A real network in int8, made once: run by three runtimes, proved, and tampered with."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from search.analysis.memory import memory
from search.bundles import isolated
from search.bundles.agreement import own
from search.bundles.bundle import Bundle
from search.bundles.contents import BundleError
from search.bundles.int8 import c_source, extra, fine_tuning, making
from search.bundles.int8.fine_tuning import fine_tuned, imitating
from search.bundles.int8.making import Maker
from search.bundles.int8.onnx import quantized
from search.bundles.int8.part import Int8Files
from search.bundles.int8.tflite import converted
from search.bundles.isolated import RunError
from search.bundles.onnx_graph import onnx_graph
from search.bundles.proof import Proof
from search.bundles.verify import looks, verify
from search.config.files import load
from search.data import datasets
from search.errors import ConfigError, MachineError
from search.networks.architecture import Architecture
from search.networks.module import build
from search.proposals.proposer import propose
from search.storage.trials import candidate_of
from search.training.modules import NONE
from search.training.trainer import Trainer
from space import SearchSpace
from tests.bundles.conftest import (
    CPU,
    SMALL,
    Exported,
    augmented,
    metrics_of,
    seal,
    trained,
    trained_module,
)
from tests.conftest import STUDIES

IN_PLACE = nn.BatchNorm2d | nn.ReLU | nn.Dropout | nn.AdaptiveAvgPool2d | nn.Flatten

pytestmark = pytest.mark.skipif(
    bool(extra.missing()), reason=f"the extra int8 is not installed: {extra.INSTALL}"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The bundle of a network that is trained for an epoch, with its int8 files."""
    result = trained(tmp_path_factory.mktemp("int8"), "space.activation=hardswish")
    result.export(result.bundle, int8=True, retrain=False)
    return result


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.bundle, tmp_path / "bundle"))


def proof_of(bundle: Path) -> Mapping[str, Callable[[], str]]:
    return looks(Proof(Bundle.of(bundle), None, 1))


def test_a_bundle_with_int8_proves_itself(exported: Exported) -> None:
    checks = {found.name: found for found in verify(exported.bundle)}
    assert [str(found) for found in checks.values() if found.ok is not True] == []
    assert {"int8 files", "int8 onnx", "int8 device"} <= set(checks)


def test_the_device_takes_what_arithmetic_said(exported: Exported) -> None:
    text = (exported.bundle / "architecture.json").read_text()
    expected, found = memory(Architecture.from_json(json.loads(text))), metrics_of(exported.bundle)
    arena = found["int8"]["arena"]
    assert arena["head"] == expected.head
    assert 0 <= expected.tail - arena["tail"] <= 16
    size = found["int8"]["tflite"]["bytes"]
    assert size == (exported.bundle / c_source.TFLITE).stat().st_size
    assert size <= expected.flash <= 1.01 * size


def test_the_report_tells_it(exported: Exported) -> None:
    report = (exported.bundle / "README.md").read_text()
    assert "## 8. On a microcontroller" in report
    assert "## 9. How to run it again" in report


def test_the_array_is_the_file(exported: Exported) -> None:
    text = (exported.bundle / c_source.SOURCE).read_text()
    numbers = text.partition("{")[2].partition("}")[0].split(",")
    found = bytes(int(number, 16) for number in numbers if number.strip())
    assert found == (exported.bundle / c_source.TFLITE).read_bytes()


@pytest.mark.parametrize("name", c_source.NAMES)
def test_an_altered_file_is_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    (found,) = verify(copy)
    assert not found.ok
    assert name in found.detail


@pytest.mark.parametrize("name", [c_source.TFLITE, c_source.SOURCE, c_source.HEADER])
def test_an_array_of_another_file_is_found_though_sealed(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    seal(copy)
    with pytest.raises(BundleError, match=r"model_data\.(cc|h) is not what model"):
        proof_of(copy)["int8 files"]()


@pytest.mark.parametrize(
    ("part", "key", "look"),
    [
        ("onnx", "bytes", "int8 files"),
        ("onnx", "test_correct", "int8 onnx"),
        ("tflite", "test_correct", "int8 device"),
        ("arena", "head", "int8 device"),
    ],
)
def test_a_forged_number_is_found(copy: Path, part: str, key: str, look: str) -> None:
    metrics = metrics_of(copy)
    metrics["int8"][part][key] += 16
    (copy / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(BundleError, match=f"{metrics['int8'][part][key]:,}".replace(",", ",?")):
        proof_of(copy)[look]()


def test_runtimes_may_differ_by_a_step_in_one_of_a_hundred() -> None:
    scores = np.zeros((10_000, 10), np.float32)
    others = scores.copy()
    others.flat[:1_000] = 1
    assert Int8Files._differing(scores, others) == 1_000
    others.flat[1_000] = 1
    with pytest.raises(BundleError, match="1,001 of 100,000"):
        Int8Files._differing(scores, others)
    with pytest.raises(BundleError, match="by up to 2"):
        Int8Files._differing(scores, np.pad([[2.0]], ((0, 9_999), (0, 9))))


def test_too_few_images_what_the_device_lacks_and_no_extra_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = SearchSpace(activation="relu").architecture({})
    with pytest.raises(ConfigError, match=r"at least 100 training images .*, but got 99"):
        making.require(network, 99)
    with pytest.raises(ConfigError, match="no gelu; relu, relu6"):
        making.require(SearchSpace(activation="gelu").architecture({}), 100)
    monkeypatch.setattr(extra, "PACKAGES", ("no-such-package",))
    with pytest.raises(MachineError, match=r"pip install 'c1c4-search\[int8\]'"):
        making.require(network, 100)


def test_what_litert_refuses_leaves_no_bundle(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> bytes:
        raise ConfigError("LiteRT makes no int8 file of this network: no such operation")

    monkeypatch.setattr(making, "converted", refuse)
    with pytest.raises(ConfigError, match="no such operation"):
        exported.export(tmp_path / "out", int8=True, retrain=False)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_what_the_device_refuses_is_told_and_leaves_no_bundle(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = (exported.bundle / c_source.TFLITE).read_bytes()
    with pytest.raises(RunError, match=r"failed to allocate tensors; .*Requested"):
        isolated.micro(file, (3, 32, 32), 0, 4_096).__enter__()
    monkeypatch.setattr(making, "converted", lambda *_: file[:1_000])
    with pytest.raises(ConfigError, match=r"^--int8: this network does not run in int8: .+"):
        exported.export(tmp_path / "out", int8=True, retrain=False)
    assert [path.name for path in tmp_path.iterdir()] == []


class Airy(nn.Module):
    """An operation that no format for microcontrollers knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.airy_ai(x).mean((2, 3))


class Choosing(nn.Module):
    """What it computes depends on the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Airy(), "LiteRT makes no int8 file of this network: .*airy"),
        (Choosing(), "torch cannot export this network: "),
    ],
)
def test_a_network_that_cannot_be_converted_is_told_in_a_line(
    module: nn.Module, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        converted(module.eval(), np.zeros((1, 3, 16, 16), np.float32))
    assert "\n" not in str(caught.value)


def test_every_calibration_image_counts() -> None:
    """The quantizer's own way forgets them."""
    from ai_edge_litert.interpreter import Interpreter

    torch.manual_seed(0)
    images = 0.1 * np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    images[0], images[1] = 5, -4
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    interpreter = Interpreter(model_content=converted(network.eval(), images))
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    exact = network(torch.from_numpy(images)).detach().numpy()
    for numbers, tensor in ((images, given), (exact, answer)):
        scale, zero = tensor["quantization"]
        assert (-128 - zero) * scale == pytest.approx(min(numbers.min(), 0), abs=scale)
        assert (127 - zero) * scale == pytest.approx(max(numbers.max(), 0), abs=scale)


def test_rounding_is_felt_where_a_microcontroller_rounds() -> None:
    torch.manual_seed(0)
    choices = {"block": {"operator": "separable", "residual": True, "squeeze_excite": 4}}
    architecture = SearchSpace.model_validate(choices).architecture({})
    network = build(architecture)
    images = torch.randn(4, 3, 32, 32)
    rounded = imitating(network, images)
    network.train(), rounded.train()
    exact, found = network(images), rounded(images)
    steps = found / rounded.O[-1].int8.scale
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert 0 < (found - exact).abs().max() < 0.5 * exact.abs().max()
    found.sum().backward()
    assert all(p.grad is not None for p in rounded.parameters())


@pytest.mark.parametrize("foreign", [False, True])
def test_a_few_more_epochs_keep_the_network_and_move_its_weights(
    foreign: bool, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "EPOCHS", 1)
    study, modules = trained_module(tmp_path) if foreign else (exported, NONE)
    candidate, config = candidate_of(study.study.trials[0]), study.config
    dataset = datasets.load(config.data)
    trainer = Trainer(config, dataset, CPU, cache=augmented(exported.folder), modules=modules)
    network = trainer.training(candidate).evaluated
    tuned = fine_tuned(trainer, candidate, network)
    assert tuned.state_dict().keys() == network.state_dict().keys()
    layers = zip(network.modules(), tuned.modules(), strict=True)
    weights = [(a.weight, b.weight) for a, b in layers if isinstance(a, nn.Conv2d | nn.Linear)]
    before, after = weights[-1]  # the first may be fixed, as whitening
    assert 0 < (after - before).abs().max() < 1


def make_uneven(network: nn.Module) -> None:
    """Its channels differ up to 290-fold, which steps of one size for a whole map cannot follow;
    its function stays (Nagel et al., 2019)."""
    leaves = [part for part in network.modules() if next(part.children(), None) is None]
    torch.manual_seed(0)
    for index, (norm, after) in enumerate(pairwise(leaves)):
        if isinstance(norm, nn.BatchNorm2d) and isinstance(after, nn.ReLU):
            weights = [part.weight for part in leaves[index:] if not isinstance(part, IN_PLACE)]
            read = weights[0] if weights[0].shape[1] == 1 else weights[0].transpose(0, 1)
            factors = 2 ** torch.empty(norm.num_features).uniform_(-4.1, 4.1)
            norm.weight *= factors
            norm.bias *= factors
            read /= factors.reshape(-1, *[1] * (read.ndim - 1))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Maker, nn.Module, list[str]]:
    """An uneven network that was trained on digits, who makes it int8, and what is told."""
    plain = ["space.activation=relu", "space.block.squeeze_excite=0", "space.block.residual=false"]
    config = load(STUDIES / "quickstart.toml", [*SMALL, *plain, "training.epochs=4"])
    dataset = datasets.load(config.data)
    trainer = Trainer(config, dataset, CPU, cache=tmp_path_factory.getbasetemp() / "augmented")
    legal = (p for p in propose(config, dataset.input, 10, random.Random(0)) if p.accepted)
    candidate = config.candidate(next(legal).choices, input=dataset.input, classes=10)
    training, told = trainer.training(candidate), list[str]()
    while training.epoch < candidate.recipe.epochs:
        training.run_epoch()
    network = training.evaluated.eval()
    with torch.no_grad():
        make_uneven(network)
    return Maker(candidate, dataset, trainer, 0, told.append), network, told


def test_epochs_that_feel_the_rounding_bring_accuracy_back(
    uneven: tuple[Maker, nn.Module, list[str]],
) -> None:
    maker, network, _ = uneven
    runner = maker._runner(maker.dataset.validation)

    def in_int8(network: nn.Module) -> float:
        graph = onnx_graph(network, maker.candidate.architecture.input)
        return maker._share(runner, runner.onnx(quantized(graph, maker._calibration)))

    exact = maker._share(runner, runner.scores(own(network)))
    lost = exact - in_int8(network)
    assert lost > 10 * making.TOLERATED
    assert exact - in_int8(fine_tuned(maker.trainer, maker.candidate, network)) < lost / 4


def test_epochs_that_diverge_are_told_and_left_out(
    uneven: tuple[Maker, nn.Module, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, network, told = uneven
    monkeypatch.setattr(fine_tuning, "LEARNING_RATE", 1e9)
    assert maker._tuned(network) is None
    assert "loss is" in told[-1]


# --- a network that somebody else wrote ------------------------------------------------


@pytest.fixture(scope="module")
def of_module(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The bundle of a module, with its int8 files; its code is gone."""
    home = tmp_path_factory.mktemp("int8_module")
    result, modules = trained_module(home)
    result.export(result.bundle, int8=True, retrain=False, modules=modules)
    (home / "mine.py").unlink()
    return result


def test_a_module_s_int8_files_prove_themselves(of_module: Exported) -> None:
    checks = {found.name: found for found in verify(of_module.bundle)}
    assert [str(found) for found in checks.values() if found.ok is False] == []
    assert all(checks[name].ok for name in ("int8 files", "int8 onnx", "int8 device"))


@pytest.mark.parametrize(
    ("part", "key", "look"),
    [("onnx", "test_correct", "int8 onnx"), ("tflite", "test_correct", "int8 device")],
)
def test_a_forged_number_of_a_module_is_found(
    of_module: Exported, tmp_path: Path, part: str, key: str, look: str
) -> None:
    forged = Path(shutil.copytree(of_module.bundle, tmp_path / "bundle"))
    metrics = metrics_of(forged)
    metrics["int8"][part][key] += 16
    (forged / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(BundleError, match=str(metrics["int8"][part][key])):
        proof_of(forged)[look]()


def test_a_module_s_rounding_is_felt_where_its_layers_give_a_map() -> None:
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.bn = nn.BatchNorm2d(8)
            self.relu = nn.ReLU(inplace=True)
            self.head = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.relu(self.bn(self.conv(x))).mean((2, 3)))

    network, images = Block(), torch.randn(4, 3, 8, 8)
    rounded = imitating(network, images)
    rounded(images)
    steps = {name: hasattr(part, "int8") for name, part in rounded.named_children()}
    assert steps == {"conv": False, "bn": False, "relu": True, "head": True}
    assert network.training
    assert rounded.training
    assert not hasattr(network.relu, "int8")
