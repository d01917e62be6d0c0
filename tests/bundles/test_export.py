"""A real network, trained for an epoch on digits, exported and proved; then tampered with."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import load_file

from constraints import check
from search.bundles.parts.every import PARTS
from search.bundles.parts.study import study_file
from search.bundles.verify import verify
from search.config.files import load, overridden
from search.config.sections import DataSection
from search.data import datasets
from search.data.normalization import Normalization
from search.errors import ConfigError
from search.networks.architecture import Architecture
from search.networks.module import build
from search.networks.source import state_key
from search.storage.checkpoints import checkpoint_path, load_checkpoint
from search.storage.finalists import choose
from search.storage.studies import searched
from search.storage.trials import candidate_of
from search.training.evaluation import evaluate
from tests.bundles.conftest import COMMITTED, CPU, Exported, metrics_of, seal


def outcome(bundle: Path, root: Path | None = None) -> dict[str, bool | None]:
    return {found.name: found.ok for found in verify(bundle, root)}


# ---------------------------------------------------------------------------- bundles


@pytest.mark.parametrize("name", ["cifar10", "cifar10-best"])
def test_a_committed_bundle_still_proves_itself(name: str) -> None:
    checks = {found.name: found for found in verify(COMMITTED.parent / name)}
    assert checks.pop("accuracy").ok is None, "its images are not here"
    assert [str(found) for found in checks.values() if found.ok is not True] == []


def test_a_bundle_proves_itself(exported: Exported) -> None:
    checks = verify(exported.bundle)
    assert [str(found) for found in checks if found.ok is not True] == []
    assert checks[-1].name == "accuracy"


DOCUMENTED = """
model.py model.safetensors model.onnx architecture.json study.toml metrics.json training_log.csv
README.md report.html figures/learning_curves.png figures/misclassified.png
"""


def test_a_bundle_is_complete_and_names_every_file(exported: Exported) -> None:
    files = {
        p.relative_to(exported.bundle).as_posix() for p in exported.bundle.rglob("*") if p.is_file()
    }
    assert files == {*metrics_of(exported.bundle)["files"], "metrics.json"}
    assert {name for part in PARTS for name in part.names} <= files
    assert {*DOCUMENTED.split()} <= files
    assert not [p for p in exported.folder.iterdir() if p.name.startswith(".bundle")]


def test_the_numbers_are_those_of_the_files(exported: Exported) -> None:
    metrics = metrics_of(exported.bundle)
    architecture = Architecture.from_json(
        json.loads((exported.bundle / "architecture.json").read_text())
    )
    weights = load_file(exported.bundle / "model.safetensors")
    network = build(architecture)
    keys = network.state_dict()
    network.load_state_dict({key: weights[state_key(architecture, key)] for key in keys})
    assert metrics["parameters"] == sum(p.numel() for p in network.parameters())
    assert (
        metrics["receptive_field"]
        == check(architecture, exported.config.rules).analysis.receptive_field[0]
    )
    shape = metrics["data"]
    normalization = Normalization(tuple(shape["mean"]), tuple(shape["std"]))
    test = datasets.load_test(exported.config.data)
    accuracy = evaluate(network, test, normalization, CPU).accuracy
    assert metrics["accuracy"]["test"] == pytest.approx(accuracy, abs=1e-9)
    assert metrics["accuracy"]["validation"] == exported.study.best_value


def test_the_study_file_means_the_same_study(exported: Exported) -> None:
    assert searched(load(exported.bundle / "study.toml")) == searched(exported.config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some of the digits as an image folder."""
    section = DataSection(kind="digits", image_size=16)
    for part, images, count in (
        ("train", datasets.load(section).train, 8),
        ("test", datasets.load_test(section), 4),
    ):
        for label in range(10):
            place = tmp_path / "mine" / part / str(label)
            place.mkdir(parents=True)
            for number, pixels in enumerate(images.pixels[images.labels == label][:count]):
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "mine"


def test_test_images_that_no_export_can_use_are_told_before_anything_is_trained(
    exported: Exported, folder: Path, tmp_path: Path
) -> None:
    for path in (folder / "test" / "3").iterdir():
        path.write_bytes(b"no image")
    changes = ["data.kind=imagefolder", f"data.root={folder}", "data.validation=0.25"]
    config, steps = overridden(exported.config, changes), []
    with pytest.raises(ConfigError, match="not a readable image"):
        exported.export(tmp_path / "bundle", config=config, progress=steps.append)
    assert steps == ["reading the test images"]


def test_the_study_file_names_no_place_on_this_machine(
    exported: Exported, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["data.kind=imagefolder", f"data.root={folder}", "data.validation=0.25"]
    config = overridden(exported.config, changes)
    bundle = exported.export(tmp_path / "bundle", config=config, retrain=False)
    text = (bundle / "study.toml").read_text()
    assert str(tmp_path) not in text
    assert "\n# The images lay elsewhere" in text
    again = load(bundle / "study.toml", [f"data.root={folder}"])
    assert again == config
    (bundle / "model.py").write_text("import os\n")  # saves the time of running it
    seal(bundle)
    monkeypatch.chdir(folder)
    assert outcome(bundle)["accuracy"] is None
    assert outcome(bundle, folder)["accuracy"]
    monkeypatch.chdir(tmp_path)
    assert outcome(bundle)["accuracy"], "the name alone, from where the folder lies"


def test_a_place_below_the_working_directory_stays_what_it_is(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for root, written in ((tmp_path / "a" / "b", "a/b"), (Path("../b"), "../b")):
        text = study_file(overridden(exported.config, [f"data.root={root}"]))
        assert f'\nroot = "{written}"\n' in text
        assert "#" not in text


def test_the_log_has_every_epoch_of_both_trainings(exported: Exported) -> None:
    with (exported.bundle / "training_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["epoch"]) for row in rows] == [("search", "1"), ("retraining", "1")]
    assert rows[0]["accuracy"]
    assert not rows[1]["accuracy"]  # its images were trained on


def test_retraining_takes_the_validation_images_too(exported: Exported) -> None:
    metrics, dataset = metrics_of(exported.bundle), datasets.load(exported.config.data)
    assert metrics["data"]["mean"] == pytest.approx(dataset.joined().mean)
    assert metrics["data"]["mean"] != pytest.approx(dataset.mean, rel=1e-9)
    with (exported.bundle / "training_log.csv").open() as file:
        search, retraining = (int(row["images"]) for row in csv.DictReader(file))
    assert retraining > search


def test_the_onnx_file_names_no_place_on_this_machine(exported: Exported) -> None:
    content = (exported.bundle / "model.onnx").read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in content
    assert b"search/networks/module.py" not in content


def test_the_weights_of_the_trial_itself(exported: Exported, tmp_path: Path) -> None:
    bundle = exported.export(tmp_path / "kept", retrain=False)
    trial = choose(exported.study)
    state = load_checkpoint(checkpoint_path(exported.folder / "runs", trial))
    assert state is not None
    architecture = candidate_of(trial).architecture
    weights = load_file(bundle / "model.safetensors")
    expected = {state_key(architecture, key): value for key, value in state["network"].items()}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in weights)
    assert not metrics_of(bundle)["retrained"]


def test_nothing_is_overwritten(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="--out"):
            exported.export(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine.txt"]


def test_an_export_that_fails_leaves_nothing(exported: Exported, tmp_path: Path) -> None:
    larger = overridden(exported.config, ["data.image_size=24"])
    with pytest.raises(ConfigError, match=r"\[3, 16, 16\].*\[3, 24, 24\]"):
        exported.export(tmp_path / "bundle", config=larger)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------- tampering


def test_no_bundle_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no bundle"):
        verify(tmp_path)


def test_a_forger_with_right_digests_is_found_by_what_differs(copy: Path) -> None:
    model = onnx.load(copy / "model.onnx")
    (initializer,) = (i for i in model.graph.initializer if i.name.endswith("O.2.weight"))
    values = numpy_helper.to_array(initializer).copy()
    values[0] += 0.01
    initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    onnx.save(model, copy / "model.onnx")
    place = copy / "study.toml"
    place.write_text(
        place.read_text().replace("depthwise_separable = 1", "depthwise_separable = 60")
    )
    metrics = metrics_of(copy)
    metrics["accuracy"]["test_correct"] += 5
    (copy / "metrics.json").write_text(json.dumps(metrics))
    code = copy / "model.py"
    code.write_text(code.read_text().replace("torch.sigmoid", "torch.relu"))
    seal(copy)
    assert outcome(copy) == {
        "files": True,
        "rules": False,
        "weights": True,
        "code": None,
        "code, traced": False,
        "code = weights": False,
        "onnx = weights": False,
        "accuracy": False,
        "numbers": False,
        "report": True,
    }


def test_hostile_code_is_never_run(copy: Path) -> None:
    code, mark = copy / "model.py", copy.parent / "mark"
    code.write_text(f"{code.read_text()}\nopen({str(mark)!r}, 'w')\n")
    seal(copy)
    found = outcome(copy)
    assert (found["code"], found["code, traced"], found["code = weights"]) == (False, None, None)
    assert not mark.exists()


def test_weights_that_are_no_numbers_are_found(copy: Path) -> None:
    place = copy / "model.safetensors"
    content = place.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    start, _ = json.loads(content[8 : 8 + length])["O.2.bias"]["data_offsets"]
    at = 8 + length + start
    place.write_bytes(content[:at] + struct.pack("<f", float("nan")) + content[at + 4 :])
    (copy / "model.py").write_text("import os\n")  # saves the time of running it
    seal(copy)
    found = outcome(copy)
    assert not found["weights"]
    assert not found["onnx = weights"]


def test_other_images_are_no_proof_of_accuracy(copy: Path) -> None:
    metrics = metrics_of(copy)
    metrics["data"]["test_fingerprint"] = "0" * 16
    (copy / "metrics.json").write_text(json.dumps(metrics))
    (copy / "model.py").write_text("import os\n")
    seal(copy)
    (accuracy,) = (found for found in verify(copy) if found.name == "accuracy")
    assert accuracy.ok is None
    assert "others than those of the test" in accuracy.detail
