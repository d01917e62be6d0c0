"""Images to train on, which teach nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of noise in each of ten classes."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (10, 10, 32, 32, 3), dtype=np.uint8)
    for label, some in enumerate(pixels):
        folder = root / "train" / str(label)
        folder.mkdir(parents=True)
        for number, image in enumerate(some):
            Image.fromarray(image).save(folder / f"{number}.png")
    return root
