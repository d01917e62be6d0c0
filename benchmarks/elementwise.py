"""Nanoseconds that a value of a feature map costs beside the convolutions.

    python -m benchmarks.elementwise

Forward and backward passes of batch normalization, by width, and of the activations that a
study can choose, in bfloat16 and channels_last as trials train on a CPU.  A quarter to a third
of a small network's training goes there.  Run it with nothing else on the machine.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.training.devices import choose_device, describe_device

BATCH, SIDE = 250, 16
WIDTHS = (24, 32, 40, 48, 56, 64, 72, 96, 128)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
}
ROUNDS, CALLS = 5, 10


def nanoseconds(function: Callable[[Tensor], Tensor], width: int) -> float:
    """Of one value, forward and backward; the median of ROUNDS times CALLS."""
    x = torch.randn(BATCH, width, SIDE, SIDE).to(torch.bfloat16, memory_format=torch.channels_last)
    x.requires_grad_()
    gradient = torch.randn_like(x)
    found = []
    for _ in range(ROUNDS + 1):  # the first one warms up
        start = time.perf_counter()
        for _ in range(CALLS):
            function(x).backward(gradient)
            x.grad = None
        found.append((time.perf_counter() - start) / CALLS / x.numel() * 1e9)
    return statistics.median(found[1:])


def main() -> None:
    device = choose_device("cpu")
    cores = os.cpu_count() or 1
    counts = sorted({1, cores})
    print(f"{describe_device(device)}; {platform.machine()}, {cores} cores;", end=" ")
    print(f"torch {version('torch')}; median of {ROUNDS} x {CALLS}, {SIDE} x {SIDE} pixels\n")
    print(
        "| ns a value, forward and backward | " + " | ".join(f"threads: {n}" for n in counts) + " |"
    )
    print("|---" * (1 + len(counts)) + "|")
    rows = {f"batch norm, {width} channels": (nn.BatchNorm2d(width), width) for width in WIDTHS}
    rows |= {name: (function, 64) for name, function in ACTIVATIONS.items()}
    for name, (function, width) in rows.items():
        values = []
        for count in counts:
            torch.set_num_threads(count)
            values.append(f"{nanoseconds(function, width):.2f}")
        print(f"| {name} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
