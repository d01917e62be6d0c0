"""Augmented epochs on the device, uploaded once for all trials of a process."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.data.augmentation import AugmentedEpochs

RESERVE = 4
"""An epoch stays on the device while this many times its bytes are free beside it."""


class DeviceEpochs:
    """`epochs` as tensors on `device`; call it with an epoch's index, counted from 0.

    Answers uint8 (N, H, W, 3), not to be written to: on a CPU as the file has it, on a CUDA
    device what an earlier trial has uploaded.  A training longer than the file
    sees it mirrored every second time round, where the policy flips half of the images: those
    are as likely an augmented epoch as the others, and no training has seen them yet.
    """

    def __init__(self, epochs: AugmentedEpochs, device: torch.device) -> None:
        self._epochs = epochs
        self._device = device
        self._held: dict[int, Tensor] = {}

    def __call__(self, index: int) -> Tensor:
        section = self._epochs.section
        times_round, index = divmod(index, section.epochs)
        pixels = self._upload(index)
        return pixels.flip(2) if times_round % 2 and section.flip_probability == 0.5 else pixels

    def _upload(self, index: int) -> Tensor:
        if index in self._held:
            return self._held[index]
        pixels = _tensor(self._epochs.epoch(index)).to(self._device)
        if self._device.type == "cuda" and self._has_room(pixels.nbytes):
            self._held[index] = pixels
        return pixels

    def _has_room(self, size: int) -> bool:
        free, _ = torch.cuda.mem_get_info(self._device)
        return bool(free > RESERVE * size)


def _tensor(array: NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # torch says that it would not keep a writer from read-only memory; nothing writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
