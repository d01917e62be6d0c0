from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import normalize

from search.data.datasets import Dataset
from search.data.normalization import Normalization, cropped


def test_the_images_of_the_statistics_get_mean_zero_and_deviation_one(digits: Dataset) -> None:
    normalization = Normalization(digits.mean, digits.std)
    x = normalization(torch.from_numpy(digits.train.pixels), torch.float32)
    assert x.shape == (len(digits.train), *digits.input)
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std().item() == pytest.approx(1, abs=1e-4)


def test_each_channel_is_normalized_as_torchvision_does_it() -> None:
    pixels = torch.randint(0, 256, (4, 6, 8, 3), dtype=torch.uint8)
    mean, std = (0.2, 0.5, 0.7), (0.1, 0.25, 0.3)
    expected = normalize(pixels.permute(0, 3, 1, 2) / 255, list(mean), list(std))
    assert torch.allclose(Normalization(mean, std)(pixels, torch.float32), expected, atol=1e-5)


def test_a_smaller_image_averages_the_larger() -> None:
    """Halving a checkerboard leaves its mean everywhere but at the borders."""
    board = np.indices((16, 16)).sum(0) % 2 * 255
    pixels = torch.from_numpy(np.repeat(board[None, ..., None], 3, 3).astype(np.uint8))
    x = Normalization((0.0,) * 3, (1.0,) * 3)(pixels, torch.float32, (8, 8))
    assert x.shape == (1, 3, 8, 8)
    assert torch.allclose(x[..., 1:-1, 1:-1], torch.tensor(0.5), atol=1e-4)


def test_each_image_is_cut_at_a_place_of_its_own() -> None:
    rows, columns = np.indices((12, 16))
    image = np.stack([rows, columns], -1).astype(np.uint8)  # a pixel tells where it was
    pixels = torch.from_numpy(np.repeat(image[None], 200, 0))
    torch.manual_seed(0)
    cut = cropped(pixels, (8, 12))
    corners = {tuple(corner.tolist()) for corner in cut[:, 0, 0]}
    assert corners == {(row, column) for row in range(5) for column in range(5)}
    assert torch.equal(cut - cut[:, :1, :1], torch.from_numpy(image[None, :8, :12]).expand_as(cut))
    torch.manual_seed(0)
    assert torch.equal(cropped(pixels, (8, 12)), cut)
    assert torch.equal(cropped(pixels, (12, 16)), pixels)
