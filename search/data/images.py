"""Labelled images as uint8 arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


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


Named = tuple[Images, tuple[str, ...]]
"""Images with the names of their classes."""
