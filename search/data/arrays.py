"""Images that are arrays already: an `.npz` file, or what another library has read."""

from __future__ import annotations

import zipfile
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.data import pictures
from search.data.images import Images, Named, Pixels
from search.data.sources import Part, Shape, Source, other_size
from search.errors import ConfigError, MachineError, first_line

# Images and labels of each part, as Keras and as MedMNIST name them.
_NAMES: tuple[dict[Part, tuple[str, str]], ...] = (
    {
        "train": ("x_train", "y_train"),
        "validation": ("x_val", "y_val"),
        "test": ("x_test", "y_test"),
    },
    {
        "train": ("train_images", "train_labels"),
        "validation": ("val_images", "val_labels"),
        "test": ("test_images", "test_labels"),
    },
)


class Arrays(Source):
    """One `.npz` file, `data.root`: `x_train`, `y_train`, `x_test`, `y_test`, and at will
    `x_val`, `y_val`, and `classes`, their names; images uint8 (N, H, W), (N, H, W, C) or
    (N, C, H, W)."""

    kind = "npz"

    def describe(self) -> tuple[Shape, int]:
        images, classes = self.read("train")
        _, height, width, channels = images.pixels.shape
        return (channels, height, width), len(classes)

    def read(self, part: Part) -> Named:
        arrays = self._arrays
        names = self._names
        try:
            classes = _classes(arrays.get("classes"), _labels(arrays, names["train"]))
            labels = _labels(arrays, names[part])
            pixels = arrays[names[part][0]]
            if labels.min() < 0 or labels.max() >= len(classes):
                raise ValueError(
                    f"{names[part][1]} must lie in 0..{len(classes) - 1}, but is in "
                    f"{labels.min()}..{labels.max()}"
                )
            channels = self.section.channels or channels_last(pixels).shape[-1]
            pixels = fitted(pixels, self.section.image_size, channels)
        except ValueError as error:
            raise ConfigError(f"{self.section.root}: {error}") from None
        return Images(pixels, labels.astype(np.int64)), classes

    def has_validation(self) -> bool:
        return any(name in self._arrays for name in self._names["validation"])

    def without_test(self) -> str:
        missing = [name for name in self._names["test"] if name not in self._arrays]
        if missing:
            return f"{self.section.root}: no {' and no '.join(missing)}"
        try:
            train, test = (
                channels_last(self._arrays[self._names[part][0]]).shape[1:]
                for part in ("train", "test")
            )
        except ValueError as error:
            return f"{self.section.root}: {error}"
        if train == test or self.section.image_size:
            return ""
        return f"{self.section.root}: {other_size('test', test, train)}"

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        path = self.section.root
        if not path.is_file():
            raise MachineError(f"{path}: no such file; name one with --set data.root=FILE.npz")
        try:
            with path.open("rb") as file:
                if not zipfile.is_zipfile(file):
                    raise ValueError("not whole, or not what np.savez writes")
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path}: not a readable .npz ({first_line(error)})") from None

    @property
    def _names(self) -> dict[Part, tuple[str, str]]:
        for names in _NAMES:
            if all(name in self._arrays for name in names["train"]):
                return names
        held = ", ".join(self._arrays)
        raise ConfigError(f"{self.section.root}: must hold x_train and y_train, but holds {held}")


def _labels(arrays: dict[str, NDArray[Any]], pair: tuple[str, str]) -> NDArray[Any]:
    """The labels of a pair of images and labels: one integer for each image, one image at least."""
    if missing := [name for name in pair if name not in arrays]:
        raise ValueError(f"no {' and no '.join(missing)}, though it has the other")
    images, labels = (arrays[name] for name in pair)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.dtype.kind not in "iu" or flat.ndim != 1 or flat.shape != images.shape[:1]:
        raise ValueError(
            f"{pair[1]} must be one integer for each image, but is {labels.dtype} "
            f"{labels.shape} for images {images.shape}"
        )
    if not len(flat):
        raise ValueError(f"{pair[0]} holds no images")
    return flat


def _classes(names: NDArray[Any] | None, labels: NDArray[Any]) -> tuple[str, ...]:
    """The names of the classes; where there are none, the numbers of the training `labels`."""
    if names is None:
        # Before a number of classes is believed: more than images there cannot be.
        if labels.min() != 0 or labels.max() >= len(labels):
            raise ValueError(
                "labels must count the classes from 0, but those for training are in "
                f"{labels.min()}..{labels.max()}"
            )
        return tuple(map(str, range(int(labels.max()) + 1)))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise ValueError(
            f"classes must be a list of names, as text, but is {names.dtype} {names.shape}"
        )
    known = tuple(map(str, names))
    if len(set(known)) < len(known) or not all(name and name.isprintable() for name in known):
        raise ValueError("classes must be names, each another, all of characters that print")
    return known


def channels_last(images: NDArray[Any]) -> NDArray[Any]:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, H, W, C), C being 1 or 3."""
    if 0 in images.shape:
        raise ValueError(f"images must have pixels, but are {images.shape}")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[-1] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images.transpose(0, 2, 3, 1)
    raise ValueError(f"images must be (N, H, W) or have 1 or 3 channels, but are {images.shape}")


def fitted(images: NDArray[Any], size: int | None, channels: int) -> Pixels:
    """`images` as uint8 (N, H, W, `channels`), resized where `size` is given.

    Raises:
        ValueError: they are not of 8 bits, or not shaped as `channels_last` takes them.
    """
    pixels = channels_last(images)
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8, from 0 to 255, but are {pixels.dtype}, from {pixels.min()} to "
            f"{pixels.max()}; scale and convert them"
        )
    if pixels.shape[-1] == channels and not size:
        return np.ascontiguousarray(pixels)
    gray = pixels.shape[-1] == 1
    one_by_one = (Image.fromarray(image[..., 0] if gray else image) for image in pixels)
    return np.stack([pictures.pixels(image, size, channels) for image in one_by_one])
