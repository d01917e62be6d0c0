"""PFLOP and seconds to 85 % test accuracy, and the same seconds for the hand-made baseline.

    python -m benchmarks.target IMAGES [SEED ...]

Trains the winner in `docs/results/cifar10-fast`, by the recipe of its study, on all training
images of the imagefolder IMAGES, once for each SEED (default 0 to 4), which sets the initial
weights and the order of the images.  The test images are read after every epoch to
see when 85 % is reached; nothing is chosen by them.

The baseline's seconds are its throughput here (float32, batches of 128 from `DataLoader`
with albumentations in as many processes as there are cores, SGD with momentum), measured in
turn with the trainings, times the images that its author's log needed: 86 epochs of 50,000.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.pipeline import Augmented
from search.analysis.facts import count_macs
from search.config.candidate import Candidate, Recipe
from search.config.files import load, overridden
from search.config.sections import StudyConfig
from search.data.datasets import Dataset, load_test
from search.data.datasets import load as load_data
from search.networks.module import build
from search.targets import read_architecture
from search.training.devices import choose_device, describe_device
from search.training.trainer import Trainer
from search.training.training import EpochRecord

ROOT = Path(__file__).parent.parent
WINNER = ROOT / "docs" / "results" / "cifar10-fast"
CACHE = ROOT / "studies" / "augmented"  # where studies keep theirs
TARGET = 0.85
BASELINE_IMAGES = 86 * 50_000  # to 85.00 %, by its author's log
BASELINE_BATCHES = 40


def winner() -> Candidate:
    """The exported network with the recipe that trained it."""
    architecture = read_architecture(WINNER / "architecture.json")
    metrics = json.loads((WINNER / "metrics.json").read_text())
    return Candidate(architecture, Recipe(**metrics["recipe"]))


def curve(
    candidate: Candidate, config: StudyConfig, dataset: Dataset, seed: int
) -> list[EpochRecord]:
    """One training; its accuracies are those of `dataset.validation`."""
    study = config.study.model_copy(update={"seed": seed})
    trainer = Trainer(
        config.model_copy(update={"study": study}),
        dataset,
        choose_device(),
        cache=CACHE,
        processes=os.cpu_count() or 1,
    )
    training = trainer.training(candidate)
    return [training.run_epoch() for _ in range(candidate.recipe.epochs)]


def baseline_rate(dataset: Dataset) -> float:
    """Training images per second of the baseline under its author's recipe."""
    device = choose_device()
    network = build(read_architecture(ROOT / "studies" / "baseline.json")).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(Augmented(dataset.train.pixels), 128, num_workers=os.cpu_count() or 1)
    labels = torch.from_numpy(dataset.train.labels).to(device)
    batches = iter(loader)
    next(batches)  # starts the processes
    start = time.perf_counter()
    for step in range(BASELINE_BATCHES):
        x = next(batches).to(device)
        loss = F.cross_entropy(network(x), labels[step * 128 :][: len(x)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    float(loss.detach())  # waits for the device
    return 128 * BASELINE_BATCHES / (time.perf_counter() - start)


def table(candidate: Candidate, curves: dict[int, list[EpochRecord]]) -> Iterator[str]:
    yield "| seed | first epoch at 85 % | PFLOP | seconds | test accuracy at the end |"
    yield "|---|---|---|---|---|"
    for seed, records in curves.items():
        end = f"{100 * records[-1].accuracy:.2f} %"
        first = _first(records)
        if first is None:
            yield f"| {seed} | never | | | {end} |"
            continue
        cost, seconds = _cost(candidate, first), _seconds(records, first)
        yield f"| {seed} | {first.epoch} of {len(records)} | {cost:.4f} | {seconds:.0f} | {end} |"


def _first(records: list[EpochRecord]) -> EpochRecord | None:
    return next((record for record in records if record.accuracy >= TARGET), None)


def _cost(candidate: Candidate, record: EpochRecord) -> float:
    return candidate.pflop(record.epoch, record.images)


def _seconds(records: list[EpochRecord], last: EpochRecord) -> float:
    return sum(record.seconds for record in records[: last.epoch])


def _summary(values: list[float], unit: str) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"mean {statistics.mean(values):.4g} {unit} (standard deviation {spread:.2g})"


def main() -> None:
    if len(sys.argv) < 2:
        print("needs an imagefolder of CIFAR-10: python -m benchmarks.target IMAGES [SEED ...]")
        return
    images, seeds = sys.argv[1], [int(seed) for seed in sys.argv[2:]] or list(range(5))
    changes = ["data.kind=imagefolder", f"data.root={images}"]
    config = overridden(load(WINNER / "study.toml"), changes)
    whole = load_data(config.data).joined()
    dataset = dataclasses.replace(whole, validation=load_test(config.data))
    candidate = winner()
    facts = (
        f"{count_macs(candidate.architecture) / 1e6:.2f} M MACs, {candidate.recipe.epochs} epochs"
    )
    print(
        f"{describe_device(choose_device())}; {platform.machine()}, {os.cpu_count()} cores;",
        end=" ",
    )
    print(f"torch {version('torch')}, albumentations {version('albumentations')}; {facts}\n")
    curves, rates = [], []
    for seed in seeds:
        rates.append(baseline_rate(dataset))
        curves.append(curve(candidate, config, dataset, seed))
    print("\n".join(table(candidate, dict(zip(seeds, curves, strict=True)))))
    reached = [(records, first) for records in curves if (first := _first(records))]
    print(f"\n{len(reached)} of {len(seeds)} seeds reach 85 %.", end=" ")
    if not reached:
        return
    costs = [_cost(candidate, first) for _, first in reached]
    seconds = [_seconds(records, first) for records, first in reached]
    print(f"To 85 %: {_summary(costs, 'PFLOP')}, {_summary(seconds, 's')}.")
    baseline = [BASELINE_IMAGES / rate for rate in rates]
    print(f"Baseline: {_summary(rates, 'images/s')}, {_summary(baseline, 's')} to 85 %, or")
    print(f"{statistics.mean(baseline) / statistics.mean(seconds):.1f} times as long; 0.60 PFLOP.")


if __name__ == "__main__":
    main()
