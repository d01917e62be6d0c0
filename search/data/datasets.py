"""What a study learns from: training and validation images, their statistics.

The test images are read by `load_test` alone, which only an export calls, and `doctor`, to tell
whether an export can read them.  Libraries that take seconds to import are imported where they
are used: bad input is told at once.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from search.config.sections import DataSection

# Imported for being defined: each is a kind of data set.
from search.data import arrays, digits, folder, vision  # noqa: F401
from search.data.images import Images, Named
from search.data.sources import Part, Source, other_size, source
from search.errors import ConfigError


@dataclass(frozen=True)
class Dataset:
    """What trials see: training and validation images, never the test images.  `drawn` is whether
    the latter are a share of the training images, and did not come with them."""

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images
    drawn: bool = True

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
            # A channel that is one value everywhere is shifted to 0, and not divided by 0.
            deviations.append(float(np.sqrt(share @ (values - mean) ** 2)) or 1.0)
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
        return _fingerprint(self.train)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for all trials of a study, as JSON keeps it."""
        return {
            "classes": list(self.classes),
            "shape": list(self.input),
            "training images": len(self.train),
            "validation images": len(self.validation),
            "largest class": self.largest_class,
            "pixels": f"{self.fingerprint}-{_fingerprint(self.validation)}",
        }

    @property
    def largest_class(self) -> float:
        """The accuracy of always guessing the largest class, on validation images."""
        largest = np.bincount(self.train.labels).argmax()
        return float((self.validation.labels == largest).mean())

    def joined(self) -> Dataset:
        """Training and validation images together, to retrain a winner on; none are held out."""
        images = Images(
            np.concatenate([self.train.pixels, self.validation.pixels]),
            np.concatenate([self.train.labels, self.validation.labels]),
        )
        return replace(self, train=images, validation=images.take(np.arange(0)))


def _fingerprint(images: Images) -> str:
    digest = hashlib.blake2b(digest_size=8)
    digest.update(np.ascontiguousarray(images.pixels).data)
    digest.update(images.labels.data)
    return digest.hexdigest()


def load(section: DataSection, *, keep: bool = True) -> Dataset:
    """The training images that `section` names, and the validation images beside them; where
    there are none, a stratified, seeded share of the training images.

    `keep` is whether anything may be written beside them: what is downloaded or decoded.

    Raises:
        ConfigError: for images that no study can use, naming the file or the class.
        MachineError: where the images are not there and cannot be fetched.
    """
    data = source(section, keep=keep)
    train, _, classes = _read(data)
    if own := data.has_validation():
        validation, _ = _fitting(data, "validation", train.pixels.shape[1:])
        _require_of_each(["to validate on"], validation, classes, "validation")
    else:
        train, validation = _split(train, section.validation, section.seed, "data.validation")
    if (train.pixels == train.pixels[0, 0, 0]).all():
        raise ConfigError("data: all training images are of one color: nothing to learn from")
    return Dataset(data.called, classes, train, validation, drawn=not own)


def describe(section: DataSection) -> tuple[tuple[int, int, int], int]:
    """Input shape (channels, height, width) and number of classes, without the images.

    Raises:
        ConfigError, MachineError: as `load` does.
    """
    return source(section).describe()


def load_test(section: DataSection, *, keep: bool = True) -> Images:
    """The test images.  Measured on once, at export; nothing is ever chosen on them.  `keep` is
    as in `load`.

    Raises:
        ConfigError, MachineError: as `load` does, and for images of another size.
    """
    return load_named_test(section, keep=keep)[0]


def load_named_test(section: DataSection, *, keep: bool = True) -> Named:
    """The same with the names of the classes."""
    data = source(section, keep=keep)
    if section.test is not None:
        _, test, classes = _read(data)
        if test is not None:
            return test, classes
    (channels, height, width), _ = data.describe()
    return _fitting(data, "test", (height, width, channels))


def without_test(section: DataSection) -> str:
    """Why an export would find no test images, and what to do; nothing where it finds some."""
    reason = "" if section.test is not None else source(section).without_test()
    return reason and (
        f"{reason}: nothing can be exported without test images; add some, or begin a study "
        "with --set data.test=0.1, which splits some off the training images"
    )


def _read(data: Source) -> tuple[Images, Images | None, tuple[str, ...]]:
    """The training images, the test images where those are a share of them, and the classes."""
    images, classes = data.read("train")
    share = data.section.test
    uses = ["to train on"] if data.has_validation() else ["to train on", "to validate on"]
    if share is None:
        _require_of_each(uses, images, classes)
        return images, None, classes
    if not data.without_test():
        raise ConfigError(
            f"data.test = {share}: {data.section.kind} in {data.section.root} has "
            "test images of its own; leave data.test away"
        )
    _require_of_each([*uses, "to test on"], images, classes)
    # A seed of its own: the test images must not move with the validation split's.
    images, test = _split(images, share, 0, "data.test")
    _require_of_each(uses, images, classes)
    return images, test, classes


def _fitting(data: Source, part: Part, shape: tuple[int, ...]) -> Named:
    """The images of a part, and the names of the classes; of the `shape` (height, width, channels)
    of training images."""
    images, classes = data.read(part)
    if images.pixels.shape[1:] != shape:
        raise ConfigError(f"data: {other_size(part, images.pixels.shape[1:], shape)}")
    return images, classes


def _split(images: Images, share: float, seed: int, key: str) -> tuple[Images, Images]:
    """All but a stratified `share` of the images, and that share; each has all classes, of which
    there must be two images at least."""
    from sklearn.model_selection import train_test_split

    labels = images.labels
    try:
        rest, held = train_test_split(
            np.arange(len(images)), test_size=share, random_state=seed, stratify=labels
        )
    except ValueError:
        classes = len(np.unique(labels))
        least = math.ceil(1_000 * classes / len(images)) / 1_000
        raise ConfigError(
            f"{key} = {share}: of {len(images)} images in {classes} classes it must be from "
            f"{least} to {1 - least:g}, so that all classes are on both sides"
        ) from None
    for _ in range(2):  # a share of a rare class may be less than one image
        for label in np.setdiff1d(labels[rest], labels[held]):
            moved = rest[labels[rest] == label][0]
            rest, held = rest[rest != moved], np.append(held, moved)
        rest, held = held, rest
    return images.take(np.sort(rest)), images.take(np.sort(held))


def _require_of_each(
    uses: list[str], images: Images, classes: tuple[str, ...], part: Part = "train"
) -> None:
    kind = "training" if part == "train" else part
    if len(classes) < 2:
        raise ConfigError(f"data: only one class, {classes[0]}; at least two are needed")
    counts = np.bincount(images.labels, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count < len(uses):
            raise ConfigError(
                f"data: class {name}: {kind} images: {count}; at least {len(uses)} are needed, "
                f"one {', one '.join(uses)}"
            )
