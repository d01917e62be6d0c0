"""Decoded images in a file, which is believed only where it is what was written."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from search.data.images import Pixels

Shape = tuple[int, ...]

log = logging.getLogger(__name__)


def cached(path: Path, shape: Shape, decode: Callable[[], Pixels]) -> Pixels:
    """What `decode` answers, uint8 of `shape` (N, H, W, C): from `path` where that holds it.

    A file that is damaged, or is none, is made again, and a line says so.  Where nothing can be
    written, the images are decoded each time.
    """
    if not os.access(path.parent, os.W_OK):
        return decode()
    pixels = None
    try:
        with FileLock(path.with_suffix(".lock"), mode=0o600):
            pixels = _read(path, shape)
            if pixels is None:
                pixels = decode()
                _write(path, pixels)
    except OSError as error:
        log.warning("%s: %s; the images are decoded each time", path, error.strerror)
    return decode() if pixels is None else pixels


def _read(path: Path, shape: Shape) -> Pixels | None:
    if not path.exists():
        return None
    try:
        if not path.is_file():
            raise ValueError("no file")
        with path.open("rb") as file:
            pixels: Pixels = np.load(file, allow_pickle=False)
            digest = file.read()
    except (OSError, ValueError, EOFError, MemoryError):
        digest, pixels = b"", np.empty(0, np.uint8)
    # The digest is of the bytes alone, which may be read as other arrays.
    asked = pixels.dtype == np.uint8 and pixels.shape == shape
    if asked and digest == _digest(pixels):
        return pixels
    log.warning("%s is not what was written: made again", path)
    return None


def _write(path: Path, pixels: Pixels) -> None:
    """The file at once, whole, under a name that nobody can have planted; what writers left that
    were killed goes, for the lock is held."""
    for left in path.parent.glob(f"{path.stem}*.part"):
        left.unlink()
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=path.stem, suffix=".part", delete=False
    ) as file:
        try:
            np.save(file, pixels)
            file.write(_digest(pixels))
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise


def _digest(pixels: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
