"""torchvision's readers, on tiny files in the original formats."""

from __future__ import annotations

import bz2
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision import datasets

from search.config.sections import DataSection
from search.data.datasets import describe, load, load_test
from search.data.vision import SETS
from search.errors import ConfigError, MachineError

RNG = np.random.default_rng(0)
Write = Callable[[Path, np.ndarray, np.ndarray, bool], list[Path]]


def _idx(path: Path, array: np.ndarray) -> Path:
    """The format of MNIST: magic number with type and rank, sizes, bytes; all big endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(head + array.astype(np.uint8).tobytes())
    return path


def _mnist(folder: str, prefix: Callable[[bool], str], first: int = 0) -> Write:
    def write(root: Path, images: np.ndarray, labels: np.ndarray, train: bool) -> list[Path]:
        start = root / folder / "raw" / prefix(train)
        return [
            _idx(start.with_name(f"{start.name}-images-idx3-ubyte"), images[..., 0]),
            _idx(start.with_name(f"{start.name}-labels-idx1-ubyte"), labels + first),
        ]

    return write


def _emnist(split: str, first: int = 0) -> Write:
    return _mnist("EMNIST", lambda train: f"emnist-{split}-{'train' if train else 'test'}", first)


def _cifar100(root: Path, images: np.ndarray, labels: np.ndarray, train: bool) -> list[Path]:
    path = root / "cifar-100-python" / ("train" if train else "test")
    path.parent.mkdir(exist_ok=True)
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    path.write_bytes(pickle.dumps({"data": rows, "fine_labels": labels.tolist()}))
    meta = path.with_name("meta")
    meta.write_bytes(pickle.dumps({"fine_label_names": [f"kind {i}" for i in range(100)]}))
    return [path, meta]


def _svhn(root: Path, images: np.ndarray, labels: np.ndarray, train: bool) -> list[Path]:
    path = root / f"{'train' if train else 'test'}_32x32.mat"
    tens = np.where(labels == 0, 10, labels)  # where a house number's 0 is 10
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": tens[:, None].astype(np.uint8)})
    return [path]


def _stl10(root: Path, images: np.ndarray, labels: np.ndarray, train: bool) -> list[Path]:
    start = root / "stl10_binary"
    start.mkdir(exist_ok=True)
    part = "train" if train else "test"
    x, y, unlabeled = start / f"{part}_X.bin", start / f"{part}_y.bin", start / "unlabeled_X.bin"
    x.write_bytes(images.transpose(0, 3, 2, 1).tobytes())  # column by column
    y.write_bytes((labels + 1).astype(np.uint8).tobytes())
    unlabeled.write_bytes(b"")
    (start / "class_names.txt").write_text("\n".join(f"kind {i}" for i in range(10)))
    return [x, y, unlabeled]


def _usps(root: Path, images: np.ndarray, labels: np.ndarray, train: bool) -> list[Path]:
    lines = []
    for image, label in zip(images, labels, strict=True):
        values = image.ravel() / 255 * 2 - 1
        lines.append(f"{label + 1} " + " ".join(f"{i}:{v:.8f}" for i, v in enumerate(values, 1)))
    path = root / ("usps.bz2" if train else "usps.t.bz2")
    path.write_bytes(bz2.compress("\n".join(lines).encode()))
    return [path]


WRITERS: dict[str, Write] = {
    "CIFAR100": _cifar100,
    "MNIST": _mnist("MNIST", lambda train: "train" if train else "t10k"),
    "FashionMNIST": _mnist("FashionMNIST", lambda train: "train" if train else "t10k"),
    "KMNIST": _mnist("KMNIST", lambda train: "train" if train else "t10k"),
    "EMNIST-balanced": _emnist("balanced"),
    "EMNIST-letters": _emnist("letters", first=1),
    "SVHN": _svhn,
    "STL10": _stl10,
    "USPS": _usps,
}


# Channels, height, width, and classes, as their authors publish them.
PUBLISHED = {
    "CIFAR10": ((3, 32, 32), 10),
    "CIFAR100": ((3, 32, 32), 100),
    "MNIST": ((1, 28, 28), 10),
    "FashionMNIST": ((1, 28, 28), 10),
    "KMNIST": ((1, 28, 28), 10),
    "EMNIST-balanced": ((1, 28, 28), 47),
    "EMNIST-byclass": ((1, 28, 28), 62),
    "EMNIST-bymerge": ((1, 28, 28), 47),
    "EMNIST-digits": ((1, 28, 28), 10),
    "EMNIST-letters": ((1, 28, 28), 26),
    "SVHN": ((3, 32, 32), 10),
    "STL10": ((3, 96, 96), 10),
    "USPS": ((1, 16, 16), 10),
}


def test_every_set_is_as_large_as_it_was_published() -> None:
    assert {name: (what.shape, what.classes) for name, what in SETS.items()} == PUBLISHED


def _accept(monkeypatch: pytest.MonkeyPatch, name: str, files: list[Path]) -> None:
    """The checksums of torchvision become those of `files`."""
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}
    kind = getattr(datasets, name.partition("-")[0])
    for attribute in ("train_list", "test_list"):
        if hasattr(kind, attribute):
            listed = [[name, sums[name]] for name, _ in getattr(kind, attribute)]
            monkeypatch.setattr(kind, attribute, listed)
    if hasattr(kind, "meta"):
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums["meta"]})
    if hasattr(kind, "split_list"):
        listed = {
            part: [url, name, sums.get(Path(name).name, old)]
            for part, (url, name, old) in kind.split_list.items()
        }
        monkeypatch.setattr(kind, "split_list", listed)


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_written_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, classes = PUBLISHED[name]
    channels, height, width = shape
    labels = np.arange(2 * classes) % classes
    parts, files = [], []
    for train in (True, False):
        images = RNG.integers(0, 256, (len(labels), height, width, channels), np.uint8)
        files += WRITERS[name](tmp_path, images, labels, train)
        parts.append(images)
    _accept(monkeypatch, name, files)
    section = DataSection(kind="torchvision", name=name, root=tmp_path, validation=0.5)
    assert describe(section) == (shape, classes)
    data, test = load(section), load_test(section)
    assert (data.input, len(data.classes)) == (shape, classes)
    assert len(set(data.classes)) == classes
    for found, written in ((data.joined().train, parts[0]), (test, parts[1])):
        order = {image.tobytes(): int(label) for image, label in zip(written, labels, strict=True)}
        by_bytes = {i.tobytes(): int(n) for i, n in zip(found.pixels, found.labels, strict=True)}
        if name == "USPS":  # text of eight digits: equal but for rounding down
            assert np.abs(found.pixels.astype(int).sum() - written.astype(int).sum()) < written.size
        else:
            assert by_bytes == order
    assert data.name == name, "not torchvision: so report, model card and doctor call it"
    gray = section.model_copy(update={"channels": 3, "image_size": 12})
    assert load(gray).input == (3, 12, 12)


def test_what_is_not_there_and_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    section = DataSection(kind="torchvision", name="SVHN", root=tmp_path / "none")
    with pytest.raises(MachineError, match=r"SVHN is neither in .*none.* DIR/train_32x32\.mat and"):
        load(section, keep=False)
    assert not (tmp_path / "none").exists()


def _damaged(root: Path) -> dict[str, Callable[[], None]]:
    """What may have happened to the files of an MNIST below `root`."""
    raw = root / "MNIST" / "raw"
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    return {
        "cut off": lambda: images.write_bytes(images.read_bytes()[:500]) and None,
        "another file": lambda: labels.write_text("hello there") and None,
        "empty": lambda: labels.write_bytes(b"") and None,
        "too few labels": lambda: _idx(labels, np.arange(5)) and None,
        "labels of another set": lambda: _idx(labels, np.arange(20) + 3) and None,
        "one file gone": images.unlink,
    }


@pytest.mark.parametrize("how", _damaged(Path()))
def test_what_is_there_and_cannot_be_read_is_told(how: str, tmp_path: Path) -> None:
    labels = np.arange(20) % 10
    for train in (True, False):
        images = RNG.integers(0, 256, (20, 28, 28, 1), np.uint8)
        WRITERS["MNIST"](tmp_path, images, labels, train)
    section = DataSection(kind="torchvision", name="MNIST", root=tmp_path, validation=0.5)
    load(section, keep=False)
    _damaged(tmp_path)[how]()
    with pytest.raises(MachineError, match=r"MNIST in .* is damaged or not whole \(.+\)\. Give"):
        load(section, keep=False)


def test_both_files_are_asked_for_where_both_are_needed(tmp_path: Path) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(b"another")
    section = DataSection(kind="torchvision", name="SVHN", root=tmp_path)
    with pytest.raises(
        MachineError, match=r"SVHN in .*DIR/train_32x32\.mat and DIR/test_32x32\.mat"
    ):
        load(section, keep=False)


def test_a_name_that_nobody_would_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.name = 'MNIST': .*--set data\.kind=torchvision"):
        describe(DataSection(name="MNIST"))
    assert describe(DataSection()) == ((3, 32, 32), 10)
