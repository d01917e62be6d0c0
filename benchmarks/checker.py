"""What a proposal costs: choices, architecture and verdict, against building the module.

    python -m benchmarks.checker [N]

N random candidates of `studies/cifar10.toml` (default 2000) are decided on by arithmetic;
the first N / 20 of them are also built as torch modules and counted by torchinfo and by
fvcore, in the same run.  Prints a Markdown table of CPU time in microseconds: of the median
candidate, on average, of the middle half, and how many times the checker's median that is.
Neither of the two knows receptive fields, so they do less.
"""

from __future__ import annotations

import logging
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchinfo
from fvcore.nn import FlopCountAnalysis

from constraints import violations
from search.analysis.table import analyze
from search.config.files import load
from search.networks.architecture import Architecture
from search.networks.module import build

STUDY = Path(__file__).parent.parent / "studies" / "cifar10.toml"
NUMBER, SLOW_SHARE = 2_000, 20
SHAPE = (1, 3, 32, 32)


@dataclass(frozen=True)
class Timing:
    """Microseconds per candidate."""

    what: str
    times: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def row(self, reference: float) -> str:
        low, _, high = statistics.quantiles(self.times, n=4)
        mean = statistics.fmean(self.times)
        return (
            f"| {self.what} | {len(self.times)} | {self.median:,.0f} | {mean:,.0f} "
            f"| {low:,.0f}-{high:,.0f} | {self.median / reference:,.0f} |"
        )


def timed(what: str, work: Callable[[Any], object], inputs: Sequence[Any]) -> Timing:
    times = []
    for item in inputs:
        start = time.process_time_ns()
        work(item)
        times.append((time.process_time_ns() - start) / 1_000)
    return Timing(what, times)


def by_torchinfo(architecture: Architecture) -> object:
    return torchinfo.summary(build(architecture), SHAPE, verbose=0, device="cpu")


def by_fvcore(architecture: Architecture) -> object:
    return FlopCountAnalysis(build(architecture), torch.zeros(SHAPE)).total()


def measure(number: int) -> list[Timing]:
    config = load(STUDY, [])
    space, rules, rng = config.space, config.rules, random.Random(0)

    def propose(_: int) -> object:
        return violations(space.architecture(space.sample(rng)), rules)

    timed("", propose, range(200))  # fills the caches, as the first proposals of a study do
    fast = timed("sample, architecture, verdict", propose, range(number))
    some = [space.architecture(space.sample(rng)) for _ in range(max(2, number // SLOW_SHARE))]
    by_torchinfo(some[0]), by_fvcore(some[0])  # imports and kernels
    return [
        fast,
        timed("the same with the whole table", analyze, some),
        timed("build the module", build, some),
        timed("build, torchinfo", by_torchinfo, some),
        timed("build, fvcore", by_fvcore, some),
    ]


def main() -> None:
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    timings = measure(int(sys.argv[1]) if len(sys.argv) > 1 else NUMBER)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchinfo", "fvcore"))
    print(f"{platform.processor() or platform.machine()}, one core, Python", end=" ")
    print(f"{platform.python_version()}, {versions}\n")
    print("| per candidate | n | median us | mean us | middle half | ratio |")
    print("|---|---|---|---|---|---|")
    for timing in timings:
        print(timing.row(timings[0].median))


if __name__ == "__main__":
    main()
