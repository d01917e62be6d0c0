"""Labelled images as uint8 arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

NUMBERS = 2**22
"""In one batch at most, so that what only looks at images fits where training does."""


def is_gray(pixels: Pixels) -> bool:
    """Whether the channels of all images (N, H, W, C) are equal, as those of gray images that
    are read in color."""
    return bool((pixels == pixels[..., :1]).all())


@dataclass(frozen=True)
class Images:
    """Images with labels: `pixels` uint8 (N, H, W, C), `labels` int64 (N,)."""

    pixels: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Images:
        """The images at `indices`, in their order."""
        return Images(self.pixels[indices], self.labels[indices])

    def batches(self, most: int = NUMBERS) -> Iterator[Images]:
        """All in their order, at most `most` together, and fewer where they are large."""
        size = max(1, min(most, NUMBERS // math.prod(self.pixels.shape[1:])))
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Images(self.pixels[part], self.labels[part])


Named = tuple[Images, tuple[str, ...]]
"""Images with the names of their classes."""
