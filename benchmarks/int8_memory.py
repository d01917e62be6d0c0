"""Arena and flash as arithmetic has them, against TensorFlow Lite Micro's and the file's own.

    python -m benchmarks.int8_memory [TABLE [N]]

Takes the first N (75) networks that each of two studies accepts, with random weights, and
MLPerf Tiny's ResNet-8; makes each an int8 file as `export --int8` does, and runs it by
TensorFlow Lite Micro.  What was measured stands in TABLE, line by line; what stands there
already is not measured again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.published.resnet8 import resnet8
from constraints import Limits, check
from search.analysis.memory import Memory, memory
from search.analysis.tracing.trace import trace
from search.bundles import isolated
from search.bundles.int8 import extra
from search.bundles.int8.conversion import int8_file
from search.config.files import load
from search.networks.architecture import Architecture
from search.networks.module import build
from search.proposals.proposer import propose

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "results" / "int8-memory.jsonl"
INPUT, CLASSES = (3, 32, 32), 10
RUNNING = 'space.activation=["relu", "relu6", "hardswish", "silu"]'
SPACES: dict[str, tuple[str, ...]] = {"mlperf-tiny": (), "wide": (RUNNING,)}
RESNET = "ResNet-8"
CALIBRATION = 4  # images: the numbers move with them, no size does
ROOM = 2**23  # bytes that an arena may take while it is measured


@dataclass(frozen=True)
class Row:
    """What one network of `space` really takes, in bytes."""

    space: str
    network: str
    head: int
    tail: int
    flash: int

    @property
    def arena(self) -> int:
        return self.head + self.tail


@dataclass(frozen=True)
class Case:
    """A network, and what arithmetic says that it takes."""

    space: str
    name: str
    source: Architecture | None
    expected: Memory

    def measured(self) -> Row:
        """The same network as a file, and that file run."""
        torch.manual_seed(0)
        images = torch.randn(CALIBRATION, *INPUT)
        network = normalizing(build(self.source) if self.source else resnet8(), images)
        with contextlib.redirect_stdout(sys.stderr):  # LiteRT prints its progress
            file = int8_file(network, images.permute(0, 2, 3, 1).numpy())
        with isolated.micro(file, INPUT, 0, ROOM) as (arena, _):
            return Row(self.space, self.name, arena["head"], arena["tail"], len(file))


def normalizing(network: nn.Module, images: Tensor) -> nn.Module:
    """`network` with the statistics that `images` give: with none, as it is made, values fade
    from layer to layer until int8 has no scale for them."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def cases(count: int) -> Iterator[Case]:
    """ResNet-8, then networks of each space in turn."""
    yield Case(RESNET, "resnet8", None, traced(resnet8()))
    for same in zip(*(accepted(name, count) for name in SPACES), strict=True):
        yield from same


def traced(module: nn.Module) -> Memory:
    return check(trace(module, INPUT), Limits(())).analysis.memory


def accepted(name: str, count: int) -> Iterator[Case]:
    """The first networks that the study `name` accepts."""
    config = load(ROOT / "studies" / f"{name}.toml", SPACES[name])
    proposals = propose(config, INPUT, CLASSES, random.Random(0))
    legal = (proposal.architecture for proposal in proposals if proposal.accepted)
    for network in islice(legal, count):
        if network:
            yield Case(name, network.hash, network, memory(network))


def known(table: Path) -> dict[tuple[str, str], Row]:
    lines = table.read_text().splitlines() if table.exists() else []
    rows = (Row(**json.loads(line)) for line in lines)
    return {(row.space, row.network): row for row in rows}


def pairs(table: Path, count: int) -> Iterator[tuple[Case, Row]]:
    """Each network with what it really takes, from `table` or measured now."""
    rows = known(table)
    for case in cases(count):
        row = rows.get((case.space, case.name))
        if row is None:
            row = case.measured()
            with table.open("a") as file:
                print(json.dumps(asdict(row)), file=file)
        yield case, row


def errors(found: Sequence[tuple[Case, Row]], part: str) -> list[float]:
    """Percent that arithmetic says too much, below 0 where it says too little."""
    sizes = ((getattr(case.expected, part), getattr(row, part)) for case, row in found)
    return [100 * (said / real - 1) for said, real in sizes]


def lines(found: Sequence[tuple[Case, Row]]) -> Iterator[str]:
    yield "| networks of | n | what | exact | median | 95 of 100 | most | too little |"
    yield "|---|---|---|---|---|---|---|---|"
    for space in (*SPACES, RESNET):
        own = [(case, row) for case, row in found if case.space == space]
        for part in ("head", "arena", "flash") if own else ():
            yield f"| {space} | {len(own)} | {part} | {summary(sorted(errors(own, part)))} |"


def summary(off: Sequence[float]) -> str:
    high, little = off[int(0.95 * (len(off) - 1))], sum(each < 0 for each in off)
    shares = (f"{each:+.2f} %" for each in (statistics.median(off), high, off[-1]))
    return " | ".join((str(off.count(0)), *shares, str(little)))


def main() -> None:
    if extra.missing():
        print(f"needs {', '.join(extra.missing())}: {extra.INSTALL}")
        return
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    table = Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE
    found = list(pairs(table, int(sys.argv[2]) if len(sys.argv) > 2 else 75))
    versions = ", ".join(f"{name} {number}" for name, number in extra.versions().items())
    print(f"torch {torch.__version__}, {versions}; pointers of 64 bits\n")
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
