"""Does an early report predict the end?  Averaged weights against the weights themselves.

    python -m benchmarks.early_stopping IMAGES [N]

Trains N (default 30) random survivors of `studies/cifar10.toml`, of few MACs, on half of
the training images in the imagefolder IMAGES, for 8 epochs each, and evaluates both after
every epoch: the moving average, which trials report, and the raw weights, the naive value.
Prints Spearman's correlation of either at a third of the epochs with the final accuracy,
its 95 % interval by bootstrap over trainings, and what successive halving would lose.
As many trainings run at once as there are cores, a thread each.  Without IMAGES it says so
and measures nothing.
"""

from __future__ import annotations

import csv
import os
import platform
import random
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from search.config.candidate import Candidate
from search.config.files import load, overridden
from search.config.sections import StudyConfig
from search.data.augmentation import AugmentedEpochs
from search.data.datasets import Dataset
from search.data.datasets import load as load_data
from search.data.epochs import DeviceEpochs
from search.data.normalization import Normalization
from search.networks.module import build
from search.proposals.proposer import propose
from search.training.devices import choose_dtype
from search.training.evaluation import evaluate
from search.training.training import Training

STUDY = Path(__file__).parent.parent / "studies" / "cifar10.toml"
EPOCHS = 8
THIRD = round(EPOCHS / 3)
CHANGES = (
    "data.kind=imagefolder",
    "data.validation=0.5",  # half the images train
    f"training.epochs={EPOCHS}",
    "training.average=0.6",
    "training.learning_rate={low = 0.05, high = 1.0, log = true}",
    "training.matrix_learning_rate={low = 0.05, high = 0.6, log = true}",
    "augmentation.epochs=8",
    "limits.macs=5_000_000",
)
VALIDATION = 5_000  # images on which accuracies are measured
Curve = list[tuple[float, float]]


@lru_cache(maxsize=1)
def prepared(images: str, folder: str) -> tuple[StudyConfig, Dataset, AugmentedEpochs]:
    """Study, data and augmented epochs, read once in every process."""
    config = overridden(load(STUDY), [*CHANGES, f"data.root={images}"])
    dataset = load_data(config.data)
    epochs = AugmentedEpochs(
        config.augmentation, dataset.train.pixels, dataset.fingerprint, dataset.mean, Path(folder)
    )
    return config, dataset, epochs


def candidates(config: StudyConfig, dataset: Dataset) -> Iterator[Candidate]:
    """Random survivors, without end."""
    classes = len(dataset.classes)
    for proposal in propose(config, dataset.input, classes, random.Random(0)):
        if proposal.accepted:
            yield config.candidate(proposal.choices, input=dataset.input, classes=classes)


def curve(candidate: Candidate, images: str, folder: str) -> Curve:
    """Accuracy of averaged and of raw weights after every epoch."""
    torch.set_num_threads(1)
    _, dataset, epochs = prepared(images, folder)
    torch.manual_seed(0)
    device = torch.device("cpu")
    network = build(candidate.architecture)
    normalization = Normalization(dataset.mean, dataset.std)
    dtype = choose_dtype(device, "auto")
    validation = dataset.validation.take(
        np.arange(VALIDATION) * (len(dataset.validation) // VALIDATION)
    )
    training = Training(
        network,
        candidate.recipe,
        DeviceEpochs(epochs, device),
        dataset.train.labels,
        normalization,
        validation=validation,
        device=device,
        dtype=dtype,
        seed=0,
    )
    result = []
    for _ in range(EPOCHS):
        averaged = training.run_epoch().accuracy
        raw = evaluate(network, validation, normalization, device, dtype=dtype).accuracy
        result.append((averaged, raw))
    return result


def correlation(early: np.ndarray, final: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(final), (2_000, len(final)))
    low, high = np.nanquantile([spearmanr(early[d], final[d])[0] for d in draws], [0.025, 0.975])
    return f"{spearmanr(early, final)[0]:.3f} ({low:.3f} to {high:.3f})"


def report(curves: np.ndarray) -> None:
    """Prints the table for curves (trainings, epochs, averaged and raw)."""
    final = curves[:, -1, 0]
    print(
        f"{platform.processor() or platform.machine()}, torch {version('torch')}, n = {len(final)}"
    )
    print(f"trainings; final accuracy {final.min():.1%} to {final.max():.1%}\n")
    print(f"| reported in epoch {THIRD} of {EPOCHS} | Spearman with the end (95 %) | best kept |")
    print("|---|---|---|")
    for name, column in (("averaged weights", 0), ("weights themselves", 1)):
        early = curves[:, THIRD - 1, column]
        kept = final[np.argsort(-early)[: len(early) // 2]].max()
        print(f"| {name} | {correlation(early, final)} | {kept:.2%} of {final.max():.2%} |")
    print("\nBest kept: the final accuracy of the best training in the better half at that epoch.")


def main() -> None:
    if len(sys.argv) < 2:
        print("needs an imagefolder: python -m benchmarks.early_stopping IMAGES [N]")
        return
    images, number = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(cores) as pool:
        config, dataset, epochs = prepared(images, folder)
        epochs.start(cores).join()
        found = [c for c, _ in zip(candidates(config, dataset), range(number), strict=False)]
        curves: list[Curve] = []
        writer = csv.writer(sys.stderr)
        for done in pool.map(curve, found, [images] * number, [folder] * number):
            curves.append(done)
            writer.writerows([len(curves), e + 1, *pair] for e, pair in enumerate(done))
    report(np.array(curves))


if __name__ == "__main__":
    main()
