"""Labelled images as uint8 arrays, their validation split and their statistics.

The test images are read by `load_test` alone, which only an export calls.  Libraries that
take seconds to import are imported where they are used: bad input is told at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from search.config.private import private
from search.config.sections import DataSection
from search.errors import ConfigError, MachineError

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

# The share of scikit-learn's digits, which come without a test set, that serves as one.
DIGITS_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Images:
    """Images with labels: `pixels` uint8 (N, H, W, 3), `labels` int64 (N,)."""

    pixels: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Images:
        """The images at `indices`, in their order."""
        return Images(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """What trials see: training and validation images, never the test images."""

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images

    @property
    def input(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, height, width, channels = self.train.pixels.shape
        return channels, height, width

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        values = np.arange(256) / 255
        means, deviations = [], []
        for channel in range(self.train.pixels.shape[-1]):
            # From the histogram of the 256 values: exact, and no float copy of the images.
            counts = np.bincount(self.train.pixels[..., channel].ravel(), minlength=256)
            share = counts / counts.sum()
            mean = float(share @ values)
            means.append(mean)
            deviations.append(float(np.sqrt(share @ (values - mean) ** 2)))
        return tuple(means), tuple(deviations)

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of the training images, in [0, 1]."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of the training images, in [0, 1]."""
        return self._moments[1]

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name the training images and their order."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(np.ascontiguousarray(self.train.pixels).data)
        digest.update(self.train.labels.data)
        return digest.hexdigest()

    def joined(self) -> Dataset:
        """Training and validation images together, to retrain a winner on; none are held out."""
        images = Images(
            np.concatenate([self.train.pixels, self.validation.pixels]),
            np.concatenate([self.train.labels, self.validation.labels]),
        )
        return replace(self, train=images, validation=images.take(np.arange(0)))


def load(section: DataSection) -> Dataset:
    """The training images that `section` names, with a stratified, seeded hold-out.

    Raises:
        ConfigError: for images that no study can use, naming the file or the class.
        MachineError: where the images are not there and cannot be fetched.
    """
    from sklearn.model_selection import train_test_split

    images, classes = _READERS[section.kind](section, True)
    indices = np.arange(len(images))
    try:
        train, validation = train_test_split(
            indices,
            test_size=section.validation,
            random_state=section.seed,
            stratify=images.labels,
        )
    except ValueError as error:
        raise ConfigError(f"data.validation = {section.validation}: {error}") from None
    return Dataset(
        section.kind, classes, images.take(np.sort(train)), images.take(np.sort(validation))
    )


def describe(section: DataSection) -> tuple[tuple[int, int, int], int]:
    """Input shape (channels, height, width) and number of classes, without the images.

    Raises:
        ConfigError, MachineError: as `load` does.
    """
    if section.kind != "imagefolder":
        size = (section.kind == "digits" and section.image_size) or 32
        return (3, size, size), 10
    folder = section.root / "train"
    classes = _class_names(folder)
    height, width, channels = _read(_files(folder / classes[0])[0], section.image_size).shape
    return (channels, height, width), len(classes)


def load_test(section: DataSection) -> Images:
    """The test images.  Read once, at export; nothing is ever chosen on them."""
    images, _ = _READERS[section.kind](section, False)
    return images


def _cifar10(section: DataSection, train: bool) -> tuple[Images, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    there = section.root.exists()
    try:
        data = CIFAR10(str(section.root), train=train, download=True)
    except (URLError, RuntimeError, OSError) as error:
        if not there:
            with suppress(OSError):  # not empty: what was loaded so far is kept
                section.root.rmdir()
        raise MachineError(
            f"CIFAR-10 is neither in {section.root} nor could it be downloaded "
            f"({_one_line(error)}). Give a copy: --set data.root=DIR with "
            "DIR/cifar-10-batches-py/ or DIR/cifar-10-python.tar.gz, or "
            "--set data.kind=imagefolder with DIR/train/<class>/* and DIR/test/<class>/*"
        ) from None
    labels = np.asarray(data.targets, dtype=np.int64)
    return Images(np.asarray(data.data, dtype=np.uint8), labels), tuple(data.classes)


def _digits(section: DataSection, train: bool) -> tuple[Images, tuple[str, ...]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    size = section.image_size or 32
    digits = load_digits()
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    pixels = np.stack([_resized(Image.fromarray(image).convert("RGB"), size) for image in grey])
    images = Images(pixels, digits.target.astype(np.int64))
    # Its own seed: the test set must not move with the validation split's.
    parts = train_test_split(
        np.arange(len(images)),
        test_size=DIGITS_TEST_SHARE,
        random_state=0,
        stratify=images.labels,
    )
    return images.take(np.sort(parts[0 if train else 1])), tuple(str(n) for n in range(10))


def _imagefolder(section: DataSection, train: bool) -> tuple[Images, tuple[str, ...]]:
    root = section.root
    classes = _class_names(root / "train")
    folder = root / ("train" if train else "test")
    if _class_names(folder) != classes:
        raise ConfigError(f"{folder}: its classes must be those of {root / 'train'}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _files(folder / name)
        files += found
        labels += [label] * len(found)
    pixels = _decoded(files, folder, section.image_size)
    return Images(pixels, np.asarray(labels, dtype=np.int64)), classes


_Reader = Callable[[DataSection, bool], tuple[Images, tuple[str, ...]]]
_READERS: dict[str, _Reader] = {
    "cifar10": _cifar10,
    "digits": _digits,
    "imagefolder": _imagefolder,
}
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise MachineError(
            f"{folder}: no such directory. An image folder holds train/<class>/* and "
            "test/<class>/*; name it with --set data.root=DIR"
        )
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "."))
    if len(names) < 2:
        raise ConfigError(f"{folder}: at least two class directories are needed")
    return names


def _files(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
    if not found:
        raise ConfigError(f"{folder}: a class without images")
    return found


def _decoded(files: Sequence[Path], folder: Path, size: int | None) -> Pixels:
    """The images as one array (N, H, W, 3), from a cache beside the folder where it holds
    these very files; a folder that cannot be written to is decoded each time."""
    stamps = [(p.relative_to(folder).as_posix(), p.stat()) for p in files]
    listing = repr([(name, s.st_size, s.st_mtime_ns) for name, s in stamps] + [size])
    key = hashlib.sha256(listing.encode()).hexdigest()[:16]
    cache = folder.parent / f".{folder.name}-{key}.npy"
    if not os.access(folder.parent, os.W_OK):
        return _decode(files, size)
    with FileLock(cache.with_suffix(".lock"), mode=0o600):
        if not cache.exists():
            scratch = cache.with_suffix(".tmp.npy")
            pixels = _decode(files, size)
            with open(scratch, "wb", opener=private) as file:
                np.save(file, pixels)
            scratch.replace(cache)
    cached: Pixels = np.load(cache)
    return cached


def _decode(files: Sequence[Path], size: int | None) -> Pixels:
    first = _read(files[0], size)
    pixels = np.empty((len(files), *first.shape), dtype=np.uint8)
    for index, path in enumerate(files):
        image = _read(path, size)
        if image.shape != first.shape:
            raise ConfigError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels, but {files[0]} has "
                f"{first.shape[1]}x{first.shape[0]}; --set data.image_size=N resizes all"
            )
        pixels[index] = image
    return pixels


def _read(path: Path, size: int | None) -> Pixels:
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ConfigError(f"{path}: not a readable image ({_one_line(error)})") from None
    return _resized(rgb, size) if size else np.asarray(rgb)


def _resized(image: Image.Image, size: int) -> Pixels:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _one_line(error: Any) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
