"""Forgeries of accuracy and of every number, found by what is measured again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import balanced_accuracy_score

from search.bundles import agreement, numbers, verify
from search.bundles.agreement import DisagreementError, Tally
from search.bundles.bundle import Bundle
from search.bundles.contents import BundleError, UnknownError
from search.bundles.held_out import fingerprint, read_test_set
from search.bundles.metrics import read
from search.bundles.proof import Proof
from search.bundles.verify import looks
from search.config.sections import DataSection
from search.data.datasets import load_named_test, load_test
from search.data.normalization import Normalization
from tests.bundles.conftest import Exported, metrics_of, seal


def proof_of(bundle: Path, seed: int = 1) -> Proof:
    return Proof(Bundle.of(bundle), None, seed)


def answering(model: onnx.ModelProto, image: np.ndarray, label: int, classes: int) -> None:
    """Lets `model` answer `label` near `image` (C, H, W), and change nothing elsewhere."""
    (result,) = model.graph.output
    near, bonus = np.float32(0.01), np.zeros((1, classes), np.float32)
    bonus[0, label] = 1e6
    values = {"image": image[None], "two": np.float32(2), "near": near, "bonus": bonus,
              "axes": np.array([1, 2, 3]), "column": np.array([-1, 1])}  # fmt: skip
    steps = [
        ("Sub", ["images", "image"], "away"),
        ("Pow", ["away", "two"], "squared"),
        ("ReduceMean", ["squared", "axes"], "distance"),
        ("Sub", ["near", "distance"], "closeness"),
        ("Relu", ["closeness"], "close"),
        ("Reshape", ["close", "column"], "share"),
        ("Mul", ["share", "bonus"], "more"),
        ("Add", [result.name, "more"], "forged"),
    ]
    for kind, inputs, output in steps:
        model.graph.node.append(helper.make_node(kind, inputs, [output]))
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()]
    model.graph.initializer.extend(weights)
    result.name = "forged"


def test_a_graph_that_knows_one_test_image_is_found(exported: Exported, copy: Path) -> None:
    bundle = Bundle.of(copy)
    images = load_test(exported.config.data)
    inputs, labels = next(agreement.batches(images, bundle.normalization))
    logits = agreement.own(bundle.reference())(inputs)
    wrong = int(np.flatnonzero(logits.argmax(axis=1) != labels)[0])
    model = onnx.load(copy / "model.onnx")
    answering(model, inputs[wrong], int(labels[wrong]), bundle.classes)
    onnx.save(model, copy / "model.onnx")
    seal(copy)
    forged = looks(proof_of(copy))
    assert "agree" in forged["onnx = weights"](), "random images tell nothing of it"
    with pytest.raises(DisagreementError, match=r"logits of model\.onnx differ"):
        forged["accuracy"]()


def test_small_logits_agree_with_none_of_another_class(exported: Exported) -> None:
    """A classifier times 1e-6 leaves each image its class, and is near to any other."""
    bundle = Bundle.of(exported.bundle)
    images = proof_of(exported.bundle)._probes
    right = agreement.own(bundle.reference())
    ways = {"right": lambda x: 1e-6 * right(x), "rolled": lambda x: 1e-6 * np.roll(right(x), 1, 1)}
    with pytest.raises(DisagreementError, match="rolled gives another class on 256 of 256 images"):
        agreement.compare(ways, images, bundle.classes)
    near = {"right": right, "rounded": lambda x: right(x) + np.float32(1e-6)}
    assert agreement.compare(near, images, bundle.classes)[1] < 1e-5


def test_code_that_is_written_otherwise_is_not_proved(copy: Path) -> None:
    code, line = copy / "model.py", "x = self.C1(x)"
    assert line in code.read_text()
    code.write_text(code.read_text().replace(line, "x = self.C1(torch.relu(x))"))
    seal(copy)
    found = looks(proof_of(copy))
    with pytest.raises(UnknownError, match=r"not what this version writes for architecture\.json"):
        found["code"]()


def test_code_without_an_end_is_run_once(copy: Path) -> None:
    """Each class calls the one before it twice: 2 ** 40 calls of one layer."""
    before, line = "\n\nclass Network", "        x = self.C1(x)\n"
    classes = "".join(
        f"\n\nclass N{n}(nn.Module):\n    def __init__(self) -> None:\n"
        f"        super().__init__()\n        self.a = {f'N{n - 1}' if n else 'nn.ReLU'}()\n\n"
        "    def forward(self, x: Tensor) -> Tensor:\n        return self.a(self.a(x))\n\n"
        for n in range(40)
    )
    code = (copy / "model.py").read_text().replace(before, classes + before)
    made = code.replace("        self.C1 =", "        self.N = N39()\n        self.C1 =")
    (copy / "model.py").write_text(made.replace(line, f"        x = self.N(x)\n{line}"))
    seal(copy)
    proof = proof_of(copy)
    found = looks(proof)
    with pytest.raises(BundleError, match="more than 10,000 calls of layers"):
        found["code, traced"]()
    with pytest.raises(UnknownError, match="not run again"):
        found["code = weights"]()
    assert proof.ways == ("weights", "model.onnx")


def test_probes_are_fresh_many_and_of_the_images_kind(exported: Exported) -> None:
    bundle = Bundle.of(exported.bundle)
    shape, normalization = bundle.architecture.input, bundle.normalization
    first, again, other = (agreement.probes(shape, normalization, seed) for seed in (1, 1, 2))
    assert len(first) == agreement.PROBES
    assert np.array_equal(first, again)
    assert not np.isclose(first, other).all(axis=(1, 2, 3)).any()
    mean, std = (np.array(each)[:, None, None] for each in (normalization.mean, normalization.std))
    pixels = first * std + mean
    assert pixels.min() > -1e-6
    assert pixels.max() < 1 + 1e-6
    steps = np.abs(np.diff(pixels, axis=-1)).mean(axis=(1, 2, 3))
    rough, smooth = np.split(steps, 2)
    assert smooth.max() < rough.min(), "half of them are as smooth as photographs"
    assert len(agreement.probes((3, 1_024, 1_024), Normalization((0.5,) * 3, (0.2,) * 3), 1)) == 8


def test_runs_take_other_seeds(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def seen(bundle: Bundle, root: Path | None, seed: int) -> Proof:
        seeds.append(seed)
        return Proof(bundle, root, seed)

    monkeypatch.setattr(verify, "looks", lambda proof: {})

    monkeypatch.setattr(verify, "Proof", seen)
    for seed in (None, None, 7):
        verify.verify(copy, seed=seed)
    assert len(set(seeds)) == 3
    assert seeds[2] == 7


@pytest.fixture(scope="module")
def tally(exported: Exported) -> Tally:
    bundle = Bundle.of(exported.bundle)
    network, counted = agreement.own(bundle.reference()), Tally(bundle.classes)
    for inputs, labels in agreement.batches(load_test(exported.config.data), bundle.normalization):
        counted.add(network(inputs), labels)
    return counted


def compared(exported: Exported, tally: Tally, content: Any) -> str:
    """What is said of `metrics.json` with `content`."""
    bundle, metrics = Bundle.of(exported.bundle), read(json.dumps(content).encode())
    log = bundle.files["training_log.csv"]
    found = {
        **numbers.from_log(log, bundle.config.study.metric, metrics, bundle.architecture),
        **numbers.from_tally(tally, metrics.data.classes),
    }
    return numbers.compare(metrics, found, "texts")


def test_right_numbers_are_counted_and_the_others_named(exported: Exported, tally: Tally) -> None:
    said = compared(exported, tally, metrics_of(exported.bundle))
    assert said.startswith("20 of metrics.json are right; not checked: ")
    assert {"hardware", "versions of it", "texts"} <= set(said.partition(": ")[2].split(", "))


def test_the_balanced_accuracy_is_that_of_scikit_learn() -> None:
    labels = np.array([0] * 9 + [1] * 3 + [3])  # no image of class 2
    seen = np.array([0] * 8 + [1] + [1, 0, 3] + [3])
    tally = Tally(4)
    tally.add(np.eye(4, dtype=np.float32)[seen], labels)
    found = numbers.from_tally(tally, ("a", "b", "c", "d"))
    value, slack = found["accuracy.test_balanced"]
    assert value == pytest.approx(balanced_accuracy_score(labels, seen))
    assert slack == pytest.approx(1 / 3)  # one image more or less of the smallest class
    assert found["accuracy.test_correct"] == (10, 1)
    assert found["accuracy.test"] == (10 / 13, 1 / 13)
    shares = [found[f"accuracy.per_class.{name}"] for name in "abcd"]
    assert shares == [(8 / 9, 1 / 9), (1 / 3, 1 / 3), (None, 1), (1, 1)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("accuracy/test", 0.999),
        ("accuracy/test_balanced", 0.999),
        ("accuracy/test_loss", 0.001),
        ("accuracy/validation", 0.999),
        ("accuracy/per_class/3", 1.0),
        ("accuracy/test_correct", 360),
        ("data/test", 10_000),
        ("cost/trial_pflop", 1e-9),
        ("cost/retraining_pflop", 0.0),
        ("candidate", "0" * 16),
        ("retrained", False),
        ("recipe/epochs", 30),
    ],
)
def test_a_forged_number_is_found(
    exported: Exported, tally: Tally, path: str, value: object
) -> None:
    content = metrics_of(exported.bundle)
    *way, last = path.split("/")
    part = content
    for name in way:
        part = part[name]
    assert part[last] != value
    part[last] = value
    with pytest.raises(BundleError, match=r"metrics\.json says"):
        compared(exported, tally, content)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("model.py", "MEAN = (0.", "MEAN = (0.9", "MEAN is another"),
        ("model.py", "STD = (0.", "STD = 0.5, (0.", "STD is another"),
        ("model.py", '"airplane"', '"owl"', "CLASSES is another"),
        ("README.md", "| **", "| **9", "README.md says test accuracy"),
        ("training_log.csv", ",0.854,", ",much,", "training_log.csv: "),
        ("training_log.csv", "images", "pictures", "training_log.csv: "),
        ("study.toml", 'name = "cifar10"', 'name = "other"', "says study 'cifar10'"),
    ],
)
def test_files_that_contradict_each_other(
    committed: Path, file: str, old: str, new: str, message: str
) -> None:
    place = committed / file
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new, 1))
    seal(committed)
    with pytest.raises(BundleError, match=message):
        looks(proof_of(committed))["numbers"]()


def test_classes_are_those_of_the_images(committed: Path, tmp_path: Path) -> None:
    """Else a class's accuracy stood under another's name, and was right."""
    metrics, root = metrics_of(committed), tmp_path / "images"
    names = metrics["data"]["classes"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 10, 32, 32, 3), np.uint8)
    for part, images in zip(("train", "test"), pixels, strict=True):
        for name, image in zip(names, images, strict=True):
            place = root / part / name / "0.png"
            place.parent.mkdir(parents=True)
            Image.fromarray(image).save(place)
    test, found = read_test_set(DataSection(kind="imagefolder", root=root))
    assert list(found) == names
    metrics["data"]["test_fingerprint"] = fingerprint(test)
    metrics["data"]["classes"] = [names[1], names[0], *names[2:]]
    (committed / "metrics.json").write_text(json.dumps(metrics))
    with Proof(Bundle.of(committed), root, 1) as proof:
        told = {key: value for key, value in proof.found.items() if key.startswith("data.c")}
        with pytest.raises(BundleError, match=r"classes\.0 'automobile', but it is 'airplane'"):
            numbers.compare(proof.bundle.stated, told, "texts")


def test_a_study_file_names_no_database(committed: Path) -> None:
    """Whoever may write one has a say in what its workers do."""
    place = committed / "study.toml"
    url = "postgresql://me:s3cret@host/studies"
    place.write_text(place.read_text().replace("[study]", f'[study]\nstorage = "{url}"', 1))
    seal(committed)
    with pytest.raises(BundleError, match=r"^study\.toml: names a database") as told:
        Bundle.of(committed)
    assert "s3cret" not in str(told.value)


def test_limits_below_the_usual_are_said(copy: Path) -> None:
    place = copy / "study.toml"
    assert "WEAKER" not in looks(proof_of(copy))["rules"]()
    text = place.read_text().replace("parameters = 60000", "parameters = 900000")
    place.write_text(text.replace("receptive_field = 44", 'receptive_field = "off"'))
    seal(copy)
    said = looks(proof_of(copy))["rules"]()
    assert "WEAKER THAN USUAL: receptive field not asked, usually 44, parameters 900000" in said


def test_the_log_tells_the_accuracy_that_the_study_compares(exported: Exported) -> None:
    bundle = Bundle.of(exported.bundle)
    log = b"run,images,accuracy,balanced_accuracy\nsearch,9,0.5,0.25\nretraining,9,,\n"
    for metric, value in (("accuracy", 0.5), ("balanced_accuracy", 0.25)):
        told = numbers.from_log(log, metric, bundle.stated, bundle.architecture)
        assert told["accuracy.validation"][0] == value
    before = b"run,images,accuracy\nsearch,9,0.5\n"
    told = numbers.from_log(before, "balanced_accuracy", bundle.stated, bundle.architecture)
    assert "accuracy.validation" not in told


@pytest.mark.parametrize("kind", ["float64", "float16", "NaN"])
def test_weights_are_float32(copy: Path, kind: str) -> None:
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight"))
    if kind == "NaN":
        weights[name].view(-1)[0] = float("nan")
    else:
        weights[name] = weights[name].to(getattr(torch, kind))
    save_file(weights, copy / "model.safetensors")
    seal(copy)
    with pytest.raises(BundleError, match=f"{name} (is {kind}|holds a number)"):
        looks(proof_of(copy))["weights"]()


# --------------------------------------------------------------------------- images


def section_of(copy: Path, **changes: object) -> Proof:
    bundle = Bundle.of(copy)
    data = bundle.config.data.model_copy(update=changes)
    config = bundle.config.model_copy(update={"data": data})
    return Proof(Bundle(**{**vars(bundle), "config": config}), None, 1)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("entry", ["cifar-10-batches-py", "cifar-10-python.tar.gz", None])
def test_an_empty_cifar10_starts_no_download(copy: Path, entry: str | None) -> None:
    root = copy.parent / "data"
    root.mkdir()
    if entry:
        (root / entry).mkdir()
    before = listing(root)
    with pytest.raises(UnknownError, match=r"not measured: .*--data DIR"):
        looks(section_of(copy, kind="cifar10", root=root))["accuracy"]()
    assert listing(root) == before


@pytest.mark.parametrize("root", ["a\0b", "x" * 5_000, "/dev/null", "/proc/self/mem", "\x1b[31m"])
@pytest.mark.parametrize("kind", ["cifar10", "imagefolder"])
def test_no_place_is_no_fault_of_ours(copy: Path, kind: str, root: str) -> None:
    with pytest.raises(UnknownError, match="not measured"):
        looks(section_of(copy, kind=kind, root=Path(root)))["accuracy"]()


def test_images_of_the_bundle_prove_nothing(copy: Path) -> None:
    (copy / "data").mkdir()
    bundle = copy.rename(copy.with_name("test"))
    for root in (bundle / "data", bundle.parent):
        with pytest.raises(UnknownError, match="brings along"):
            looks(section_of(bundle, kind="imagefolder", root=root))["accuracy"]()


def test_an_image_that_counts_several_times_is_told(exported: Exported) -> None:
    images, classes = load_named_test(exported.config.data)
    few = images.take(np.array([3, 1, 3, 3, 2, 1]))
    content = metrics_of(exported.bundle)
    bundle = Bundle.of(exported.bundle)
    right = agreement.own(bundle.reference())
    inputs, labels = next(agreement.batches(few, bundle.normalization))
    content["accuracy"]["test_correct"] = int((right(inputs).argmax(axis=1) == labels).sum())
    content["data"]["test_fingerprint"] = fingerprint(few)
    again = Proof(replace(bundle, stated=read(json.dumps(content).encode())), None, 1)
    vars(again)["_named"] = few, classes
    assert " of 6 test images (3 of them copies of others), by" in looks(again)["accuracy"]()


def test_nothing_is_written_beside_the_images(tmp_path: Path) -> None:
    root = tmp_path / "images"
    images = load_test(DataSection(kind="digits", image_size=16)).take(np.arange(60))
    for part in ("train", "test"):
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            place = root / part / str(label) / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place)
    before = listing(root)
    assert len(read_test_set(DataSection(kind="imagefolder", root=root))[0]) == 60
    assert listing(root) == before


def test_what_the_log_alone_tells_is_named_as_not_checked(copy: Path) -> None:
    said = looks(proof_of(copy))["numbers"]()
    assert "training_log.csv, which alone tells accuracy.validation" in said.partition("; not")[2]
