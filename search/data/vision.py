"""Data sets that torchvision downloads, checks and reads."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.data.arrays import fitted
from search.data.images import Images, Named
from search.data.sources import Part, Shape, Source
from search.errors import MachineError, first_line, require_known


@dataclass(frozen=True)
class _Set:
    """What differs: where the files lie below the root (any of `entries`), the arguments of
    torchvision's class for training and test images, and the label of the first class."""

    shape: Shape
    classes: int
    entries: tuple[str, ...]
    train: dict[str, Any]
    test: dict[str, Any]
    first: int = 0


_HALVES = ({"train": True}, {"train": False})
_SPLITS = ({"split": "train"}, {"split": "test"})
_GRAY = (1, 28, 28)


def _emnist(split: str, classes: int, first: int = 0) -> _Set:
    train, test = ({**half, "split": split} for half in _HALVES)
    return _Set(_GRAY, classes, ("EMNIST",), train, test, first)


SETS = {
    "CIFAR10": _Set((3, 32, 32), 10, ("cifar-10-batches-py", "cifar-10-python.tar.gz"), *_HALVES),
    "CIFAR100": _Set((3, 32, 32), 100, ("cifar-100-python", "cifar-100-python.tar.gz"), *_HALVES),
    "MNIST": _Set(_GRAY, 10, ("MNIST",), *_HALVES),
    "FashionMNIST": _Set(_GRAY, 10, ("FashionMNIST",), *_HALVES),
    "KMNIST": _Set(_GRAY, 10, ("KMNIST",), *_HALVES),
    "EMNIST-balanced": _emnist("balanced", 47),
    "EMNIST-byclass": _emnist("byclass", 62),
    "EMNIST-bymerge": _emnist("bymerge", 47),
    "EMNIST-digits": _emnist("digits", 10),
    "EMNIST-letters": _emnist("letters", 26, first=1),
    "SVHN": _Set((3, 32, 32), 10, ("train_32x32.mat", "test_32x32.mat"), *_SPLITS),
    "STL10": _Set((3, 96, 96), 10, ("stl10_binary", "stl10_binary.tar.gz"), *_SPLITS),
    "USPS": _Set((1, 16, 16), 10, ("usps.bz2", "usps.t.bz2"), *_HALVES),
}


class Torchvision(Source):
    """The data set `data.name`; gray images keep their one channel."""

    kind = "torchvision"
    downloads = True
    by_name = True

    @property
    def name(self) -> str:
        """torchvision's name of it."""
        name = self.section.name or ""
        require_known("data.name", name, SETS)
        return name

    @property
    def called(self) -> str:
        return self.name

    @property
    def channels(self) -> int:
        return self.section.channels or SETS[self.name].shape[0]

    def describe(self) -> tuple[Shape, int]:
        _, height, width = SETS[self.name].shape
        size = self.section.image_size
        return (self.channels, size or height, size or width), SETS[self.name].classes

    def read(self, part: Part) -> Named:
        what, there = SETS[self.name], self.section.root.exists()
        try:
            data = self._open(what.test if part == "test" else what.train)
            labels = np.asarray(data.targets if hasattr(data, "targets") else data.labels)
            pixels = np.asarray(data.data)
            found = labels.astype(np.int64) - what.first
            if found.shape != pixels.shape[:1] or not set(found) <= set(range(what.classes)):
                raise ValueError("its labels do not fit its images")
        except Exception as error:  # whatever torchvision stumbles over in a damaged file
            if not there:
                with suppress(OSError):  # not empty: what was loaded so far is kept
                    self.section.root.rmdir()
            raise MachineError(self._unread(error)) from None
        names = getattr(data, "classes", range(what.classes + what.first))[what.first :]
        fit = fitted(pixels, self.section.image_size, self.channels)
        return Images(fit, found), tuple(map(str, names))

    def _open(self, arguments: dict[str, Any]) -> Any:
        from torchvision import datasets

        make = getattr(datasets, self.name.partition("-")[0])
        return make(str(self.section.root), download=self.keep, **arguments)

    def _unread(self, error: Exception) -> str:
        """Why nothing could be read, and what to do."""
        root, entries = self.section.root, SETS[self.name].entries
        reason = f"({first_line(error)})"
        if self._there():
            told = f"{self.name} in {root} is damaged or not whole {reason}"
        else:
            told = f"{self.name} is neither in {root} nor could it be downloaded {reason}"
        join = " or " if any(map(_is_archive, entries)) else " and "
        return (
            f"{told}. Give a copy: --set data.root=DIR with "
            f"{join.join(f'DIR/{entry}' for entry in entries)}, or "
            "--set data.kind=imagefolder with DIR/train/<class>/* and DIR/test/<class>/*"
        )

    def _there(self) -> list[str]:
        """What lies below the root."""
        return [name for name in SETS[self.name].entries if (self.section.root / name).exists()]

    def absent(self) -> str:
        if self._there():
            return ""
        return f"{self.name} is not in {self.section.root} yet; launch downloads it"

    @property
    def is_unpacked(self) -> bool:
        return not all(map(_is_archive, self._there()))


def _is_archive(entry: str) -> bool:
    return entry.endswith(".tar.gz")


class Cifar10(Torchvision):
    """CIFAR-10: 60,000 color images of 32x32 pixels."""

    kind = "cifar10"
    name = "CIFAR10"
    called = kind
    by_name = False
