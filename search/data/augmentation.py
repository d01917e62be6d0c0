"""The albumentations pipeline, and the augmented epochs that all trials share.

Augmenting 45,000 small images costs seconds of processor time; training on them may cost
less.  So a few augmented epochs are made once, by worker processes where they are large, into
one file keyed by images, policy and seed.  Every trial, worker and resume reads them, each epoch
in a fresh order.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from filelock import FileLock

# Its processes do not run the user's script again, as those of the standard library do.
from joblib.externals.loky import ProcessPoolExecutor
from numpy.typing import NDArray

from search.config.private import make_private, private
from search.config.sections import AugmentationSection
from search.config.transforms import Transform
from search.errors import ConfigError, MachineError, first_line

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # which fewer epochs would mend

# Images augmented by one draw of the random state: small enough to spread over processes,
# fixed so that the result does not depend on their number.
CHUNK = 1_000

_FEW = 2**26  # bytes: 20,000 images of 32 x 32, which one core augments while a process imports


def pipeline(
    section: AugmentationSection,
    mean: Sequence[float],
    strength: float = 1.0,
    seed: int | None = None,
) -> Any:
    """The transforms as an `albumentations.Compose` for uint8 images (H, W, C).

    `mean` is per channel in [0, 1]; the hole of CoarseDropout is filled with it in pixel
    units.  `strength` multiplies shift, scale, rotation and the probability of a hole.
    """
    import warnings

    import albumentations
    import cv2

    cv2.setNumThreads(0)  # processes share the cores; threads below them only compete
    with warnings.catch_warnings():
        # The requirement names ShiftScaleRotate; albumentations would rather have Affine.
        warnings.filterwarnings("ignore", message=".*special case of Affine.*")
        shift_scale_rotate = albumentations.ShiftScaleRotate(
            shift_limit=min(section.shift * strength, 1.0),
            scale_limit=min(section.scale * strength, 0.99),
            rotate_limit=min(section.rotate * strength, 180.0),
            border_mode=cv2.BORDER_REFLECT_101,
            p=section.affine_probability,
        )
    return albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=section.flip_probability),
            shift_scale_rotate,
            albumentations.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=(section.hole, section.hole),
                hole_width_range=(section.hole, section.hole),
                fill=tuple(255 * value for value in mean),
                p=min(section.hole_probability * strength, 1.0),
            ),
            *(transform.build() for transform in section.extra),
        ],
        seed=seed,
    )


def require_fit(section: AugmentationSection, shape: tuple[int, int, int]) -> None:
    """Raises a `ConfigError` where a transform does not fit images (channels, height, width)."""
    _, height, width = shape
    if section.hole_probability and section.hole > min(height, width):
        raise ConfigError(
            f"augmentation.hole = {section.hole}: larger than the images, which have "
            f"{width}x{height} pixels; --set augmentation.hole={max(1, min(height, width) // 2)}"
        )
    for transform in section.extra:
        _require_same_shape(transform, np.zeros((height, width, shape[0]), np.uint8))


def _require_same_shape(transform: Transform, image: NDArray[np.uint8]) -> None:
    try:
        result = transform.build(p=1.0)(image=image)["image"]
    except Exception as error:  # whatever it needs beside an image, or of it
        reason = f"fails on them ({first_line(error)})"
    else:
        if (result.shape, result.dtype) == (image.shape, image.dtype):
            return
        reason = f"makes {result.dtype} {result.shape} of them"
    raise ConfigError(
        f"augmentation.extra: images are uint8 {image.shape}, and {transform.name} {reason}"
    )


@dataclass(frozen=True)
class AugmentedEpochs:
    """`section.epochs` augmented copies of `pixels`, uint8 (N, H, W, 3), in one file.

    The file takes epochs x N x H x W x 3 bytes in `folder` (1.4 GB for ten epochs of
    45,000 CIFAR-10 images).  What it holds is a function of the key in its name, so
    processes that make one epoch at once write the same bytes, and a lock only saves the
    work.  Beside it lies the digest of each epoch, written last: what does not answer to its
    digest is made again.  The file is read, not mapped: a map of a file that somebody cuts off
    kills the process.
    """

    section: AugmentationSection
    pixels: NDArray[np.uint8]
    fingerprint: str
    mean: tuple[float, ...]
    folder: Path
    strength: float = 1.0

    @property
    def path(self) -> Path:
        """The file, named by images, policy and seed."""
        absent = {"strength"} if self.section.extra else {"strength", "extra"}
        policy = self.section.model_dump(mode="json", exclude=absent)
        content = repr((self.fingerprint, policy, self.strength, self.mean, CHUNK))
        return self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.uint8"

    @property
    def shape(self) -> tuple[int, ...]:
        """(epochs, N, H, W, 3)."""
        return self.section.epochs, *self.pixels.shape

    @property
    def _bytes(self) -> int:
        return math.prod(self.shape)

    @property
    def few(self) -> bool:
        """Whether they are made sooner, each when it is needed, than processes start for them."""
        return self._bytes < _FEW

    def epoch(self, index: int) -> NDArray[np.uint8]:
        """Augmented epoch `index` (modulo their number), uint8 (N, H, W, 3), read-only.

        Makes it, or waits for the process that does.

        Raises:
            MachineError: where the disk does not hold the file.
        """
        index %= self.section.epochs
        pixels = self._read(index)
        return self._make(index, pool=None) if pixels is None else pixels

    def start(self, processes: int) -> threading.Thread:
        """Makes all epochs in order, in `processes` processes, behind a daemon thread.

        The thread is left alone: whoever needs an epoch before it is made waits for it.
        """
        thread = threading.Thread(target=self._make_all, args=(processes,), daemon=True)
        thread.start()
        return thread

    @property
    def made(self) -> int:
        """The number of epochs that are on disk, by the look of it."""
        whole = self.path.exists() and self.path.stat().st_size == self._bytes
        return whole * sum(self._digest(index).exists() for index in range(self.section.epochs))

    def _digest(self, index: int) -> Path:
        return self.path.with_suffix(f".{index}")

    def _read(self, index: int) -> NDArray[np.uint8] | None:
        """Epoch `index`; None where the file does not hold what its digest says."""
        size = self.pixels.size
        try:
            digest = self._digest(index).read_text()
            read = np.fromfile(self.path, np.uint8, size, offset=index * size)
        except (OSError, ValueError):
            return None
        if len(read) != size or _digest_of(read) != digest:
            return None
        read.flags.writeable = False
        return read.reshape(self.pixels.shape)

    def _make_all(self, processes: int) -> None:
        if self.made == self.section.epochs:
            return
        started, (count, images, *_) = time.monotonic(), self.shape
        size = f"{self._bytes / 1e6:,.0f} MB"
        # One that starts takes longer to import than a chunk takes to augment.
        processes = min(processes, math.ceil(images / CHUNK))
        log.info("augmenting %d x %d images into %s (%s)", count, images, self.path, size)
        try:
            with ProcessPoolExecutor(
                processes, initializer=_begin, initargs=(os.getpid(),)
            ) as pool:
                for index in range(self.section.epochs):
                    self._make(index, pool)
        except MachineError:
            return  # whoever needs an epoch is told
        except RuntimeError:
            if threading.main_thread().is_alive():
                raise
            return  # this process ends, and its pool takes no work any more
        log.info("augmented %d x %d images in %.0f s", count, images, time.monotonic() - started)

    def _make(self, index: int, pool: ProcessPoolExecutor | None) -> NDArray[np.uint8]:
        with self._disk_errors():
            make_private(self.folder)
            with FileLock(self.path.with_suffix(f".{index}.lock"), mode=0o600):
                pixels = self._read(index)
                return self._write(index, pool) if pixels is None else pixels

    def _write(self, index: int, pool: ProcessPoolExecutor | None) -> NDArray[np.uint8]:
        if self._digest(index).exists():
            log.warning("%s does not hold epoch %d any more: made again", self.path, index)
            self._digest(index).unlink()
        self._allocate()
        pixels = np.empty(self.pixels.shape, np.uint8)
        for start, chunk in zip(
            range(0, len(pixels), CHUNK), self._augment(index, pool), strict=True
        ):
            pixels[start : start + CHUNK] = chunk
        with self.path.open("r+b") as file:
            file.seek(index * pixels.nbytes)
            file.write(pixels.data)
        with open(self._digest(index), "w", opener=private) as file:
            file.write(_digest_of(pixels))
        pixels.flags.writeable = False
        return pixels

    def _augment(self, index: int, pool: ProcessPoolExecutor | None) -> Iterator[NDArray[np.uint8]]:
        """The images of epoch `index`, chunk by chunk."""
        starts = range(0, len(self.pixels), CHUNK)
        count = len(starts)
        arguments = (
            [self.pixels[start : start + CHUNK] for start in starts],
            [self.section] * count,
            [self.mean] * count,
            [self.strength] * count,
            [self._seed(index, start) for start in starts],
            [self._flips(index, start) for start in starts],
        )
        return pool.map(_augmented, *arguments) if pool else map(_augmented, *arguments)

    def _seed(self, index: int, start: int) -> int:
        sequence = np.random.SeedSequence([self.section.seed, index, start])
        return int(sequence.generate_state(1)[0])

    def _flips(self, index: int, start: int) -> NDArray[np.bool_] | None:
        """Which images of a chunk are flipped in epoch `index`; None leaves it to chance."""
        if not self.section.alternate_flips:
            return None
        first = np.random.default_rng([self.section.seed, start]).random(CHUNK) < 0.5
        return first ^ (index % 2 == 1)

    def _allocate(self) -> None:
        """Reserves the whole file, so that a full disk is told before the work."""
        with FileLock(self.path.with_suffix(".lock"), mode=0o600):
            if self.path.is_symlink():  # not ours: its target is left alone
                self.path.unlink()
            fresh = not self.path.exists()
            try:
                # Not emptied: other processes may read epochs that are in it.
                with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                    _reserve(file.fileno(), self._bytes)
            except OSError:
                if fresh:
                    self.path.unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            told = f"{self.path}: {error.strerror}; the augmented epochs "
            if error.errno not in _FULL:
                raise MachineError(f"{told}belong there") from None
            raise MachineError(
                f"{told}need {self._bytes / 1e6:,.0f} MB. Fewer: --set augmentation.epochs=N"
            ) from None


def _digest_of(pixels: NDArray[np.uint8]) -> str:
    return hashlib.blake2b(pixels.data, digest_size=16).hexdigest()


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    os.truncate(descriptor, size)


@lru_cache(maxsize=4)
def _cached_pipeline(section: AugmentationSection, mean: tuple[float, ...], strength: float) -> Any:
    return pipeline(section, mean, strength)


def _augmented(
    images: NDArray[np.uint8],
    section: AugmentationSection,
    mean: tuple[float, ...],
    strength: float,
    seed: int,
    flips: NDArray[np.bool_] | None,
) -> NDArray[np.uint8]:
    """Each image under its own draw of the three transforms; (n, H, W, 3) both ways."""
    chance = section.flip_probability if flips is None else flips.astype(float)
    chances = np.broadcast_to(chance, CHUNK)[: len(images)].tolist()
    transforms = {
        p: _cached_pipeline(section.model_copy(update={"flip_probability": p}), mean, strength)
        for p in set(chances)
    }
    for transform in transforms.values():
        transform.set_random_seed(seed)
    result = np.empty_like(images)
    for index, (image, p) in enumerate(zip(images, chances, strict=True)):
        result[index] = transforms[p](image=image)["image"]
    return result


def _begin(parent: int) -> None:
    """In a process of a pool: imports albumentations without torch, which that takes along where
    it finds it, a second and half a gigabyte for nothing."""
    _end_with(parent)
    if "torch" in sys.modules:  # the user's script has imported it
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    import albumentations  # noqa: F401

    del sys.modules["torch"]


def _end_with(parent: int) -> None:
    """A pool's process outlives a killed parent, waiting for work: it must not."""

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(parent).wait()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
