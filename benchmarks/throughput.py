"""Training images per second of the winner: precision, memory format, batch, threads.

    python -m benchmarks.throughput

Forward and backward passes of the network in `docs/results/cifar10-fast` on random images, each
setting in turn, ROUNDS times over.  The floor is what the arithmetic alone would take: 6 x
MACs FLOP an image, at the rate of one large matrix product of the same precision.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.target import WINNER
from search.analysis.facts import count_macs
from search.networks.module import build
from search.targets import read_architecture
from search.training.devices import choose_device, describe_device

IMAGES = 2_000
ROUNDS = 5
SIDE = 2_048  # of the matrices whose product is the floor
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Setting:
    dtype: torch.dtype
    memory: str
    batch: int
    threads: int


def settings() -> list[Setting]:
    """The one that trials use, and what differs from it in one or two respects."""
    cores = os.cpu_count() or 1
    threads = sorted({1, cores})
    both = [
        Setting(dtype, memory, 500, cores)
        for dtype, memory in itertools.product((torch.bfloat16, torch.float32), FORMATS)
    ]
    batches = [
        Setting(torch.bfloat16, "channels_last", batch, count)
        for batch, count in itertools.product((125, 250, 500, 1_000), threads)
    ]
    return list(dict.fromkeys([*both, *batches]))


def throughput(network: nn.Module, setting: Setting, device: torch.device) -> float:
    """Images per second."""
    if device.type == "cpu":
        torch.set_num_threads(setting.threads)
    network = network.to(memory_format=FORMATS[setting.memory])
    x = torch.randn(setting.batch, 3, 32, 32, device=device).to(
        memory_format=FORMATS[setting.memory]
    )
    y = torch.randint(0, 10, (setting.batch,), device=device)
    x = x.to(setting.dtype)
    start = 0.0
    for step in range(1 + IMAGES // setting.batch):
        if step == 1:  # the first one warms up
            start = _now(device)
        enabled = setting.dtype is torch.bfloat16
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            logits = network(x)
        F.cross_entropy(logits.float(), y).backward()
        network.zero_grad(set_to_none=True)
    return IMAGES // setting.batch * setting.batch / (_now(device) - start)


def product_rate(dtype: torch.dtype, threads: int, device: torch.device) -> float:
    """FLOP per second of a large matrix product."""
    if device.type == "cpu":
        torch.set_num_threads(threads)
    a = torch.randn(SIDE, SIDE, device=device).to(dtype)
    a @ a
    start = _now(device)
    for _ in range(3):
        a @ a
    return 3 * 2 * SIDE**3 / (_now(device) - start)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    device = choose_device()
    architecture = read_architecture(WINNER / "architecture.json")
    network = build(architecture).to(device).train()
    rates: dict[Setting, list[float]] = defaultdict(list)
    floors: dict[tuple[torch.dtype, int], list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for setting in settings():
            rates[setting].append(throughput(network, setting, device))
            kind = setting.dtype, setting.threads
            floors[kind].append(product_rate(*kind, device))
    flop = 6 * count_macs(architecture)
    print(f"{describe_device(device)}; {platform.machine()}, {os.cpu_count()} cores;", end=" ")
    print(f"torch {version('torch')}; n = {ROUNDS} rounds of {IMAGES:,} images\n")
    print(
        "| precision | memory format | batch | threads | images/s | least to most | of the floor |"
    )
    print("|---|---|---|---|---|---|---|")
    for setting, values in rates.items():
        floor = statistics.median(floors[setting.dtype, setting.threads]) / flop
        middle = statistics.median(values)
        name = str(setting.dtype).removeprefix("torch.")
        print(f"| {name} | {setting.memory} | {setting.batch:,} | {setting.threads}", end=" | ")
        print(f"{middle:,.0f} | {min(values):,.0f} to {max(values):,.0f}", end=" | ")
        print(f"{100 * middle / floor:.0f} % |")


if __name__ == "__main__":
    main()
