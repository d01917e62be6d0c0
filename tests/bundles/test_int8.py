"""A real network in int8, made once: run by three runtimes, proved, and tampered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from search.analysis.memory import memory
from search.bundles import isolated
from search.bundles.contents import BundleError
from search.bundles.int8 import c_source, extra, fine_tuning, making
from search.bundles.int8.fine_tuning import fine_tuned, imitating
from search.bundles.int8.proof import Int8Proof
from search.bundles.int8.tflite import converted
from search.bundles.isolated import RunError
from search.bundles.parts import Parts
from search.bundles.proof import Proof
from search.bundles.verify import verify
from search.config.files import load
from search.data import datasets
from search.errors import ConfigError, MachineError
from search.networks.architecture import Architecture
from search.networks.module import build
from search.proposals.sampler import make_sampler
from search.storage.studies import create_or_resume
from search.storage.trials import candidate_of
from search.training.trainer import Trainer
from search.workers.objective import Objective
from space import SearchSpace
from tests.bundles.conftest import CPU, SMALL, Exported, metrics_of, seal
from tests.conftest import STUDIES

pytestmark = pytest.mark.skipif(
    bool(extra.missing()), reason=f"the extra int8 is not installed: {extra.INSTALL}"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The bundle of a network that is trained for an epoch, with its int8 files."""
    folder = tmp_path_factory.mktemp("int8")
    config = load(STUDIES / "quickstart.toml", [*SMALL, "space.activation=hardswish"])
    study = create_or_resume(config, f"sqlite:///{folder}/small.db")
    dataset = datasets.load(config.data)
    study.sampler = make_sampler(config, dataset.input, len(dataset.classes))
    trainer = Trainer(config, dataset, CPU, cache=folder / "cache")
    study.optimize(Objective(config, trainer, runs=folder / "runs"), n_trials=1)
    result = Exported(study, config, folder, folder / "bundle")
    result.export(result.bundle, int8=True, retrain=False)
    return result


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.bundle, tmp_path / "bundle"))


def proof_of(bundle: Path) -> Mapping[str, Callable[[], str]]:
    return Proof(Parts.of(bundle), None, 1).looks


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


def test_runtimes_may_differ_by_a_step_in_one_of_a_thousand() -> None:
    scores = np.zeros((10_000, 10), np.float32)
    others = scores.copy()
    others.flat[:100] = 1
    assert Int8Proof._differing(scores, others) == 100
    others.flat[100] = 1
    with pytest.raises(BundleError, match="101 of 100,000"):
        Int8Proof._differing(scores, others)
    with pytest.raises(BundleError, match="by up to 2"):
        Int8Proof._differing(scores, np.pad([[2.0]], ((0, 9_999), (0, 9))))


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


def test_a_network_that_cannot_be_converted_is_told_in_a_line(exported: Exported) -> None:
    network = SearchSpace(activation="relu").architecture({}, input=(3, 16, 16))
    with pytest.raises(ConfigError, match=r"LiteRT makes no int8 file of this network: Unexpected"):
        converted(network, nn.Linear(1, 1), np.zeros((1, 3, 16, 16), np.float32))


def test_rounding_is_felt_where_a_microcontroller_rounds() -> None:
    torch.manual_seed(0)
    choices = {"block": {"operator": "separable", "residual": True, "squeeze_excite": 4}}
    architecture = SearchSpace.model_validate(choices).architecture({})
    network = build(architecture)
    rounded, images = imitating(network), torch.randn(4, 3, 32, 32)
    network.train(), rounded.train()
    exact, found = network(images), rounded(images)
    steps = found / rounded.O[-1].int8.scale
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert 0 < (found - exact).abs().max() < 0.5 * exact.abs().max()
    found.sum().backward()
    assert all(p.grad is not None for p in rounded.parameters())


def test_a_few_more_epochs_keep_the_network_and_move_its_weights(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "EPOCHS", 1)
    candidate = candidate_of(exported.study.trials[0])
    dataset = datasets.load(exported.config.data)
    trainer = Trainer(exported.config, dataset, CPU, cache=exported.folder / "cache")
    network = trainer.training(candidate).evaluated
    tuned = fine_tuned(trainer, candidate, network)
    assert tuned.state_dict().keys() == network.state_dict().keys()
    before, after = (n.O[-1].weight.detach() for n in (network, tuned))
    assert 0 < (after - before).abs().max() < 1
