"""Images per second: the shared augmented epochs against `DataLoader` with albumentations.

    python -m benchmarks.pipeline

Both deliver normalized float32 batches of 500 CIFAR-sized images (random pixels: the
transforms do not care) under one policy, in one run, in turn.  The loader augments in as
many processes as there are cores; the shared epochs are made before, and the cost of making
them is stated beside.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from search.config.sections import AugmentationSection
from search.data.augmentation import AugmentedEpochs, pipeline
from search.data.normalization import Normalization
from search.training.devices import keep_memory

IMAGES = 20_000
BATCH = 500
ROUNDS = 5
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
SECTION = AugmentationSection(epochs=2)


class Augmented(Dataset[NDArray[np.float32]]):
    """What the original assignment does: every image augmented whenever it is read."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self._transform = pipeline(SECTION, MEAN)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        image = self._transform(image=self._pixels[index])["image"]
        return ((image / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)


def loader_batches(loader: DataLoader[NDArray[np.float32]]) -> Iterator[Tensor]:
    yield from loader


def pixel_batches(epochs: AugmentedEpochs, index: int) -> Iterator[Tensor]:
    """uint8, in a fresh order: all that the host does where a device normalizes."""
    pixels = torch.from_numpy(np.asarray(epochs.epoch(index)).copy())
    order = torch.randperm(len(pixels))
    for start in range(0, len(pixels), BATCH):
        yield pixels[order[start : start + BATCH]]


def shared_batches(epochs: AugmentedEpochs, index: int) -> Iterator[Tensor]:
    normalization = Normalization(MEAN, STD)
    for pixels in pixel_batches(epochs, index):
        yield normalization(pixels, torch.float32)


def rate(batches: Iterator[Tensor]) -> float:
    start = time.perf_counter()
    seen = sum(len(batch) for batch in batches)
    return seen / (time.perf_counter() - start)


def main() -> None:
    keep_memory()  # as a worker does
    cores = os.cpu_count() or 1
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    loader = DataLoader(Augmented(pixels), BATCH, num_workers=cores, persistent_workers=True)
    with tempfile.TemporaryDirectory() as folder:
        epochs = AugmentedEpochs(SECTION, pixels, "benchmark", MEAN, Path(folder))
        start = time.perf_counter()
        epochs.start(cores).join()
        making = SECTION.epochs * IMAGES / (time.perf_counter() - start)
        rate(loader_batches(loader))  # starts the processes
        rows = [
            (
                rate(loader_batches(loader)),
                rate(shared_batches(epochs, index)),
                rate(pixel_batches(epochs, index)),
            )
            for index in range(ROUNDS)
        ]
    print(f"{platform.processor() or platform.machine()}, {cores} cores, n = {ROUNDS} rounds of")
    print(
        f"{IMAGES:,} images; torch {version('torch')}, albumentations {version('albumentations')}"
    )
    print("\n| pipeline | images/s, median | least | most |\n|---|---|---|---|")
    names = "DataLoader + albumentations", "shared epochs", "shared epochs, uint8 for a device"
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        figures = statistics.median(values), min(values), max(values)
        print(f"| {name} | " + " | ".join(f"{figure:,.0f}" for figure in figures) + " |")
    for column in (1, 2):
        ratios = sorted(row[column] / row[0] for row in rows)
        print(f"\n{names[column]}: median {statistics.median(ratios):.1f} times", end=" ")
        print(f"({ratios[0]:.1f} to {ratios[-1]:.1f}), round by round.")
    print(f"The epochs were made at {making:,.0f} images/s.")


if __name__ == "__main__":
    main()
