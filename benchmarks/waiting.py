"""How threads should wait for each other: images per second, alone and beside a busy process.

    python -m benchmarks.waiting

A training of a small network joins its threads every millisecond or less.  A thread that sleeps
until the other is done wakes up late; one that spins takes the core from whoever could use it,
the other thread among them.  The network of `docs/results/cifar10-best`, which has many small
layers, is trained by one thread a core, in a process of its own for each setting, with nothing
else running and beside one process that computes all the time.  The settings are those of
libgomp, GCC's OpenMP.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version

import torch

from benchmarks.target import WINNER
from benchmarks.throughput import Setting, throughput
from search.networks.module import build
from search.targets import read_architecture
from search.training.devices import choose_device, describe_device

ROUNDS = 3
SETTINGS: dict[str, dict[str, str]] = {
    "sleep (OMP_WAIT_POLICY=PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"spin {n:,} times": {"GOMP_SPINCOUNT": str(n)} for n in (100, 1_000, 3_000, 10_000)},
    "libgomp's default": {},
}
BUSY = [sys.executable, "-c", "while True: pass"]


def measured() -> float:
    """Images per second in this process."""
    architecture = read_architecture(WINNER.with_name("cifar10-best") / "architecture.json")
    device = choose_device("cpu")
    setting = Setting(torch.bfloat16, "channels_last", 250, os.cpu_count() or 1)
    return throughput(build(architecture).train(), setting, device)


def elsewhere(settings: dict[str, str], neighbors: int) -> float:
    """Images per second in a process of its own, beside busy ones."""
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    busy = [subprocess.Popen(BUSY) for _ in range(neighbors)]
    try:
        command = [sys.executable, "-m", "benchmarks.waiting", "here"]
        done = subprocess.run(command, env={**kept, **settings}, stdout=subprocess.PIPE, check=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return float(done.stdout)


def main() -> None:
    if sys.argv[1:] == ["here"]:
        print(measured())
        return
    rates: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(ROUNDS):
        for name, settings in SETTINGS.items():
            for neighbors in (0, 1):
                rates[name][neighbors].append(elsewhere(settings, neighbors))
    print(f"{describe_device(choose_device('cpu'))}; {platform.machine()},", end=" ")
    print(f"{os.cpu_count()} cores; torch {version('torch')}; n = {ROUNDS}\n")
    print("| a waiting thread … | images/s alone | beside a busy process |\n|---|---|---|")
    for name, found in rates.items():
        cells = [
            f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"
            for values in found.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
