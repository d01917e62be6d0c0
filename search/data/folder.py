"""Folders of image files: ROOT/train/<class>/*, ROOT/test/<class>/* and perhaps ROOT/val."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from search.data import pictures
from search.data.cache import cached
from search.data.images import Images, Named, Pixels
from search.data.sources import Part, Shape, Source
from search.errors import ConfigError, MachineError, printable

log = logging.getLogger(__name__)

# Bumped where the same files are read as other pixels than before.
_READING = 2
_UNREADABLE = frozenset(
    {".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".pfm", ".tga", ".ico"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".dcm", ".eps", ".pdf"}
)


_VALIDATION = ("val", "valid", "validation")  # as people call it, the first that is there


class ImageFolder(Source):
    """One directory per class; a class has the name of its directory."""

    kind = "imagefolder"

    def describe(self) -> tuple[Shape, int]:
        folder = self.section.root / "train"
        classes = _class_names(folder)
        height, width, channels = self._pixels(_files(folder / classes[0])[0]).shape
        return (channels, height, width), len(classes)

    def read(self, part: Part) -> Named:
        root = self.section.root
        folder = self._validation() if part == "validation" else root / part
        classes = self._classes(folder)
        found = [_files(folder / name) for name in classes]
        files = [path for paths in found for path in paths]
        labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in found])
        return Images(self._decoded(files, folder), labels.astype(np.int64)), classes

    def _classes(self, folder: Path) -> tuple[str, ...]:
        """The names of the classes, which are those of `folder`, too."""
        train = self.section.root / "train"
        classes = _class_names(train)
        if other := sorted(set(_class_names(folder)) ^ set(classes)):
            raise ConfigError(
                f"{folder}: its classes must be those of {train}; only one of the two "
                f"has {_some(other)}"
            )
        return classes

    def has_validation(self) -> bool:
        return self._validation().is_dir()

    def _validation(self) -> Path:
        folders = [self.section.root / name for name in _VALIDATION]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    def without_test(self) -> str:
        folder = self.section.root / "test"
        if not folder.is_dir():
            return f"{folder}: no such directory"
        try:
            self._classes(folder)
        except (ConfigError, MachineError) as error:
            return str(error)
        return ""

    def _pixels(self, path: Path) -> Pixels:
        return pictures.read(path, self.section.image_size, self.channels)

    def _decoded(self, files: Sequence[Path], folder: Path) -> Pixels:
        """The images as one array (N, H, W, C), from a cache beside the folder where it holds
        these very files."""
        if not self.keep:
            return self._decode(files)
        cache = folder.parent / f".{folder.name}-{self._key(files, folder)}.npy"
        shape = (len(files), *self._pixels(files[0]).shape)
        return cached(cache, shape, lambda: self._decode(files))

    def _key(self, files: Sequence[Path], folder: Path) -> str:
        # The time of the last change, which nobody can set, tells of a file that was
        # replaced by one of the same size and date.
        listing = [
            (os.fsencode(path.relative_to(folder)), s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            for path, s in ((path, path.stat()) for path in files)
        ]
        content = repr((listing, self.section.image_size, self.channels, _READING))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _decode(self, files: Sequence[Path]) -> Pixels:
        first = self._pixels(files[0])
        pixels = np.empty((len(files), *first.shape), dtype=np.uint8)
        for index, path in enumerate(files):
            image = self._pixels(path)
            if image.shape != first.shape:
                raise ConfigError(
                    f"{path}: {image.shape[1]}x{image.shape[0]} pixels, but {files[0]} has "
                    f"{first.shape[1]}x{first.shape[0]}; --set data.image_size=N resizes all"
                )
            pixels[index] = image
        return pixels


def _some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(printable, names[:3])) + more


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise MachineError(
            f"{folder}: no such directory. An image folder holds train/<class>/* and "
            "test/<class>/*; name it with --set data.root=DIR"
        )
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "."))
    if len(names) < 2:
        raise ConfigError(f"{folder}: at least two class directories are needed")
    for name in names:
        if not name.isprintable():
            raise ConfigError(f"{folder}: {name!a}: a class's name must be printable UTF-8")
    return names


def _files(folder: Path) -> list[Path]:
    """The image files of a class.  What begins with a dot (`._name.png` of macOS) is not one."""
    found: list[Path] = []
    others: list[Path] = []
    for path in sorted(path for path in folder.iterdir() if path.name[0] != "."):
        suffix = path.suffix.lower()
        if suffix in _UNREADABLE:
            raise ConfigError(
                f"{path}: {suffix} is not read; convert it to {', '.join(pictures.FORMATS)}"
            )
        (found if suffix in pictures.SUFFIXES else others).append(path)
    for path in found:
        if not path.is_file():
            kind = "a link to nothing" if path.is_symlink() else "no regular file"
            raise ConfigError(f"{path}: {kind}; remove it")
    if others:
        names = _some([path.name for path in others])
        log.warning("%s: left out, for it is no image by its name: %s", folder, names)
    if not found:
        raise ConfigError(f"{folder}: a class without images")
    return found
