from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from search.config.sections import AugmentationSection
from search.data.augmentation import AugmentedEpochs
from search.data.datasets import Dataset
from search.data.epochs import DeviceEpochs

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_each_epoch_is_that_of_the_file(device: str, digits: Dataset, tmp_path: Path) -> None:
    section = AugmentationSection(epochs=2, flip_probability=0.0)
    epochs = AugmentedEpochs(
        section, digits.train.pixels, digits.fingerprint, digits.mean, tmp_path
    )
    uploaded = DeviceEpochs(epochs, torch.device(device))
    for index in (0, 1, 2):
        pixels = uploaded(index)
        assert pixels.device.type == device
        assert np.array_equal(pixels.cpu().numpy(), epochs.epoch(index % 2))
    if device == "cuda":
        assert uploaded(0).data_ptr() == uploaded(2).data_ptr()  # uploaded once


def test_the_second_time_round_is_mirrored_where_flips_are_even(
    digits: Dataset, tmp_path: Path
) -> None:
    section = AugmentationSection(epochs=2, flip_probability=0.5)
    epochs = AugmentedEpochs(
        section, digits.train.pixels, digits.fingerprint, digits.mean, tmp_path
    )
    uploaded = DeviceEpochs(epochs, torch.device("cpu"))
    for index, step in ((0, 1), (1, 1), (2, -1), (3, -1), (4, 1)):
        assert np.array_equal(uploaded(index).numpy(), epochs.epoch(index % 2)[:, :, ::step])
