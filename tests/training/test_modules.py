"""Modules that users name: which can be trained, and what runs where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from search.analysis.table import analyze
from search.analysis.traced import TracedModule
from search.analysis.tracing.errors import TraceError
from search.analysis.tracing.loading import load_factory, read_source
from search.config.candidate import Candidate
from search.config.files import overridden
from search.config.sections import StudyConfig
from search.data.datasets import Dataset
from search.errors import ConfigError, MachineError
from search.training.foreign import Foreign
from search.training.modules import Modules, read
from search.training.trainer import Trainer
from tests.conftest import RECIPE, candidates
from tests.modules import written

INPUT = (1, 16, 16)
SMALL = dataclasses.replace(RECIPE, epochs=4, small_epochs=0.5, small_side=0.5, average=0.3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path)


def traced(file: Path, factory: str = "network") -> TracedModule:
    return read(read_source(f"{file}:{factory}"), INPUT, 10, SMALL)


def test_a_module_is_read_for_a_recipe(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = traced(file)
    module = load_factory(f"{file}:network")()
    assert network.analysis.parameters == sum(p.numel() for p in module.parameters())
    assert network.analysis.receptive_field == (1 + 2 + 2 + 2 * 2 + 4 * 2,) * 2
    assert (network.input, network.classes, network.module) == (INPUT, 10, f"{file}:network")
    assert [size[:2] for size in network.sizes] == [(8, 8)]
    whole = network.analysis.macs - 16 * 10
    assert network.sizes[0][2] == whole // 4 + 16 * 10, "a quarter of the cells, and the head"


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("colored", r"does not take the study's images \[1, 16, 16\]: RuntimeError: .*channels"),
        ("several", r"must give \[2, 10\] for 2 images, .* but gives \[2, 7\]"),
        ("Auxiliary", r"must give \[2, 10\] .* but gives tuple in training"),
        ("Frozen", "no trainable weight decides what it gives"),
        ("only", "must make a fresh module each time"),
        ("failing", "the factory failed: RuntimeError: no weights here"),
        ("nothing", "has no 'nothing'"),
        ("convolution", "called without arguments, and is missing"),
    ],
)
def test_what_cannot_be_trained_is_refused(file: Path, factory: str, message: str) -> None:
    with pytest.raises((ConfigError, TraceError), match=message):
        traced(file, factory)


def test_images_that_are_too_small_at_first_are_told(tmp_path: Path) -> None:
    file = written(tmp_path)
    source = read_source(f"{file}:dense")
    full = dataclasses.replace(SMALL, small_epochs=0.0)
    assert read(source, (1, 8, 8), 10, full).sizes == ()
    with pytest.raises(ConfigError, match=r"does not take .* \[1, 16, 16\]"):
        read(source, INPUT, 10, full)
    file.write_text(file.read_text().replace("nn.Linear(64", "nn.Linear(256"))
    with pytest.raises(ConfigError, match=r"\[1, 8, 8\].*--set training.small_epochs=0"):
        read(read_source(f"{file}:dense"), INPUT, 10, SMALL)


def test_a_module_that_cannot_be_copied_has_no_average(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_text(f"{file.read_text()}\nimport threading\n\n\nclass Locked(Network):\n"
                    "    def __init__(self):\n        super().__init__()\n"
                    "        self.lock = threading.Lock()\n")  # fmt: skip
    with pytest.raises(ConfigError, match=r"cannot be copied.*--set training.average=0"):
        traced(file, "Locked")
    source = read_source(f"{file}:Locked")
    assert read(source, INPUT, 10, dataclasses.replace(SMALL, average=0.0)).classes == 10


def test_code_runs_only_where_it_is_named(file: Path, tmp_path: Path) -> None:
    network = traced(file)
    with pytest.raises(MachineError, match=f"runs only where it is named: --module {file}:network"):
        Modules().build(network)
    with pytest.raises(MachineError, match="runs only where it is named"):
        Modules([f"{file}:colored"]).build(network)
    (tmp_path / "elsewhere").mkdir()
    elsewhere = written(tmp_path / "elsewhere", "other.py")
    file.unlink()  # the path of the database is not looked at
    modules = Modules([f"{elsewhere}:network"])
    assert modules.keys == {network.key}
    built = modules.build(network)
    assert isinstance(built, Foreign)
    torch.manual_seed(1)
    one = modules.build(network)
    torch.manual_seed(1)
    assert all(map(torch.equal, one.parameters(), modules.build(network).parameters()))


def test_code_that_changed_is_not_run(file: Path) -> None:
    network = traced(file)
    file.write_text(f"{file.read_text()}\n")
    with pytest.raises(MachineError, match=r"the file is another than when the trial was made"):
        Modules([f"{file}:network"]).require(network)
    file.unlink()
    with pytest.raises(TraceError, match="there is no file"):
        _ = Modules([f"{file}:network"]).keys


def test_a_change_in_a_file_that_it_imports_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper, file = tmp_path / "helper_of_mine.py", tmp_path / "importing.py"
    helper.write_text("WIDTH = 4\n")
    file.write_text(
        "import helper_of_mine as helper\nfrom torch import nn\n\n\ndef network():\n"
        "    return nn.Sequential(nn.Conv2d(1, helper.WIDTH, 8), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(helper.WIDTH, 10))\n"
    )
    network = traced(file)
    modules = Modules([f"{file}:network"])
    modules.build(network)
    monkeypatch.setattr("helper_of_mine.WIDTH", 5)
    with pytest.raises(MachineError, match=r"385 parameters.* 310 parameters.* when the trial"):
        modules.build(network)


def test_on_a_cpu_a_module_trains_in_float32_whatever_is_told(
    file: Path, tmp_path: Path, digits: Dataset, quickstart: StudyConfig
) -> None:
    config = overridden(quickstart, ["training.precision=bfloat16"])
    modules = Modules([f"{file}:colored"])
    network = read(read_source(f"{file}:colored"), digits.input, 10, RECIPE)
    cpu = torch.device("cpu")
    trainer = Trainer(config, digits, cpu, cache=tmp_path / "cache", modules=modules)
    seen: list[torch.dtype] = []
    for candidate in (network, *candidates(1)):
        training = trainer.training(Candidate(candidate, RECIPE))
        training.evaluated.register_forward_hook(lambda _, given, out: seen.append(out.dtype))
        training.evaluate(digits.validation)
    assert (seen[0], seen[-1]) == (torch.float32, torch.bfloat16)


def test_an_architecture_needs_no_code() -> None:
    (architecture,) = candidates(1)
    Modules().require(architecture)
    network = Modules().build(architecture)
    counted = sum(p.numel() for p in network.parameters())
    assert counted == analyze(architecture).parameters
