"""The 1,797 handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
from PIL import Image

from search.data import pictures
from search.data.images import Images, Named
from search.data.sources import Part, Shape, Source

TEST_SHARE = 0.2
"""Of the images, which come without a test set."""


class Digits(Source):
    """Scans of 8x8 pixels and 17 grays, scaled up."""

    kind = "digits"

    def describe(self) -> tuple[Shape, int]:
        return (self.channels, self._size, self._size), 10

    @property
    def _size(self) -> int:
        return self.section.image_size or 32

    def read(self, part: Part) -> Named:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        gray = (digits.images * (255 / 16)).round().astype(np.uint8)
        scans = [pictures.pixels(Image.fromarray(g), self._size, self.channels) for g in gray]
        images = Images(np.stack(scans), digits.target.astype(np.int64))
        # Its own seed: the test set must not move with the validation split's.
        parts = train_test_split(
            np.arange(len(images)), test_size=TEST_SHARE, random_state=0, stratify=images.labels
        )
        return images.take(np.sort(parts[1 if part == "test" else 0])), tuple(map(str, range(10)))
