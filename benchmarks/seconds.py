"""Where the seconds of a training go on a GPU, against what its hardware allows.

    python -m benchmarks.seconds IMAGES

Trains the winner in `docs/results/cifar10-fast` on the imagefolder IMAGES twice, the second time
in a process that has seen everything, and takes its seconds apart: making the training, recording
the two CUDA graphs (a size of images each), the steps, the evaluations.  Then the kernels of one
step by their own time, and three floors: its arithmetic at the rate of a large matrix product,
its bytes at the rate of a large copy, its kernels at the rate of empty ones.

Bytes of a step: each layer's input and output once forward, and three times backward (the
gradient of the output, the input and the gradient of the input); weights are small beside them.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.target import CACHE, WINNER, winner
from benchmarks.throughput import product_rate
from search.analysis.facts import count_macs
from search.config.candidate import Candidate
from search.config.files import load, overridden
from search.data.datasets import load as load_data
from search.training.devices import choose_device, describe_device
from search.training.trainer import Trainer
from search.training.training import Size, Training

REPLAYS = 50
SHOWN = 18  # kernels


class Clock:
    """Seconds between its calls, the device's work included."""

    def __init__(self) -> None:
        self._last = self._now()

    def __call__(self) -> float:
        last, self._last = self._last, self._now()
        return self._last - last

    @staticmethod
    def _now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()


def timeline(trainer: Trainer, candidate: Candidate) -> tuple[Training, dict[str, float]]:
    """A whole training, and its seconds by what they went to."""
    clock = Clock()
    training = trainer.training(candidate)
    parts = {"network, first weights, upload": clock()}
    sizes: set[Size] = set()
    first, later = 0.0, []
    for index in range(candidate.recipe.epochs):
        size = candidate.recipe.size(index, (32, 32))
        training.run_epoch()
        seconds = clock()
        if size in sizes:
            later.append((size, seconds))
        else:
            sizes.add(size)
            first += seconds
    for size in sorted(sizes):
        mine = [seconds for other, seconds in later if other == size]
        parts[f"{len(mine)} epochs at {size[0]} x {size[1]}"] = sum(mine)
    parts[f"{len(sizes)} epochs that record a graph"] = first
    clock()
    for _ in range(candidate.recipe.epochs):
        training._record(0.0, 0.0, 0.0)
    parts[f"{candidate.recipe.epochs} evaluations, within these"] = clock()
    return training, parts


def step_seconds(training: Training, size: Size) -> tuple[Callable[[], Tensor], float]:
    """One step on images of that size, replayed, and its seconds."""
    pixels, share = training._epochs(0), torch.tensor(0.5, device=training._device)
    batch = torch.arange(training._batch, device=training._device)
    train = training._step(size)

    def step() -> Tensor:
        return train(pixels[batch], training._labels[batch], share)

    for _ in range(5):
        step()
    clock = Clock()
    for _ in range(REPLAYS):
        step()
    return step, clock() / REPLAYS


def kernels(step: Callable[[], Tensor]) -> tuple[int, float, list[tuple[str, int, float]]]:
    """Of one step: how many kernels, their seconds together, and each name's share."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        for _ in range(5):
            step()
        torch.cuda.synchronize()
    device = torch.autograd.DeviceType.CUDA
    rows = [e for e in profiled.key_averages() if e.device_type == device and e.device_time_total]
    rows.sort(key=lambda e: -e.self_device_time_total)
    table = [(e.key, e.count // 5, e.self_device_time_total / 5e6) for e in rows]
    return sum(n for _, n, _ in table), sum(s for _, _, s in table), table


def launch_seconds() -> float:
    """Of one kernel that does nothing much, within a CUDA graph."""
    x = torch.zeros(8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(1_000):
            x.add_(1)
    graph.replay()
    clock = Clock()
    graph.replay()
    return clock() / 1_000


def copy_rate() -> float:
    """Bytes a second, read and written, of a copy beyond every cache."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    clock = Clock()
    for _ in range(5):
        target.copy_(source)
    return 5 * 2 * source.nbytes / clock()


def moved_bytes(network: nn.Module, batch: int, size: Size) -> int:
    """What a step must move: see above."""
    total = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += 2 * (inputs[0].numel() + output.numel())  # bfloat16

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        network(torch.zeros(batch, 3, *size, device="cuda"))
    for handle in handles:
        handle.remove()
    return 5 * total // 2


def main() -> None:
    if len(sys.argv) != 2 or not torch.cuda.is_available():
        print("needs a CUDA device, and images: python -m benchmarks.seconds IMAGES")
        return
    changes = ["data.kind=imagefolder", f"data.root={sys.argv[1]}"]
    config, device = overridden(load(WINNER / "study.toml"), changes), choose_device()
    candidate, dataset = winner(), load_data(config.data)
    print(f"{describe_device(device)}; {platform.machine()}, {os.cpu_count()} cores;", end=" ")
    print(f"torch {version('torch')}; batch {candidate.recipe.batch_size}\n")
    trainer = Trainer(config, dataset, device, cache=CACHE, processes=os.cpu_count() or 1)
    for name in ("first", "second"):
        training, parts = timeline(trainer, candidate)
        print(f"{name} training: {100 * training.history[-1].accuracy:.2f} %", end="; ")
        print("; ".join(f"{what} {seconds:.2f} s" for what, seconds in parts.items()), flush=True)
    macs = count_macs(candidate.architecture)
    product, copy, launch = product_rate(torch.bfloat16, 1, device), copy_rate(), launch_seconds()
    print(f"\nproduct {product / 1e12:.0f} TFLOP/s, copy {copy / 1e12:.2f} TB/s,", end=" ")
    print(f"an empty kernel {1e6 * launch:.2f} us")
    for size in sorted(training._captured):
        step, seconds = step_seconds(training, size)
        count, busy, table = kernels(step)
        batch = training._batch
        arithmetic = 6 * macs * size[0] * size[1] / 32**2 * batch / product
        moved = moved_bytes(training._network, batch, size) / copy
        print(f"\nstep at {size[0]} x {size[1]}: {1e3 * seconds:.3f} ms; {count} kernels,", end=" ")
        print(f"{1e3 * busy:.3f} ms of their own; floors: arithmetic {1e3 * arithmetic:.3f} ms,")
        print(f"bytes {1e3 * moved:.3f} ms, launches {1e3 * count * launch:.3f} ms")
        for name, number, own in table[:SHOWN]:
            print(f"  {1e6 * own:8.1f} us  {number:4d} x  {name[:110]}")


if __name__ == "__main__":
    main()
