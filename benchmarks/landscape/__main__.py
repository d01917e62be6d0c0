"""Trains random legal networks of `studies/wide.toml`, a line each in one table.

    python -m benchmarks.landscape IMAGES

IMAGES is an imagefolder of CIFAR-10.  Killed at any time, it goes on where it was; several
may run at once, on one table.  Once half of the uniform networks are trained, some of them are
trained by the whole recipe as well.  On a GPU, `--recipe whole --per-gpu K --table TABLE`
trains all of them by the whole recipe, K at once, into a table of its own.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.landscape.plan import Request
from benchmarks.landscape.recipes import RECIPES, ROOT, Trainer, named
from benchmarks.landscape.table import Row
from benchmarks.landscape.work import fill
from search.errors import ConfigError, MachineError
from search.proposals.filling import Choices

TABLE = ROOT / "studies" / "landscape.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 where all that was asked for is in the table."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _options(given)
    try:
        if options.per_gpu > 1:
            return _several(given, options.per_gpu)
        torch.set_num_threads(1)
        trainer = Trainer(options.images, options.device, options.table.parent / "augmented")
        for row in fill(options.table, _request(options), trainer):
            print(_line(row), flush=True)
    except ConfigError as error:
        print(f"landscape: {error}", file=sys.stderr)
        return 2
    except MachineError as error:
        print(f"landscape: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.landscape", description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--random", type=int, default=400, help="uniform legal networks")
    parser.add_argument("--repeats", type=int, default=40, help="of them with three more seeds")
    parser.add_argument("--whole", type=int, default=30, help="of them by the whole recipe too")
    parser.add_argument("--networks", type=Path, help="others: a JSON list of choices")
    parser.add_argument("--recipe", choices=RECIPES, default="short")
    parser.add_argument("--device", default="cpu", help="as that of launch")
    parser.add_argument("--per-gpu", type=int, default=1, help="processes that share the device")
    return parser.parse_args(arguments)


def _several(arguments: list[str], count: int) -> int:
    """The worst exit code of `count` processes on one table, which end with this one."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    command = [sys.executable, "-m", "benchmarks.landscape", *arguments, "--per-gpu=1"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        return max(process.wait() for process in processes)
    finally:
        for process in processes:
            process.terminate()


def _request(options: argparse.Namespace) -> Request:
    return Request(
        options.random,
        options.repeats,
        _named(options.networks) if options.networks else (),
        options.whole if options.recipe == "short" else 0,
        options.recipe,
    )


def _named(path: Path) -> tuple[Choices, ...]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise ConfigError(f"{path}: must be a JSON list of choices, each an object")
    return tuple(named(choices) for choices in content)


def _line(row: Row) -> str:
    number = "" if row.index is None else f" {row.index}"
    return (
        f"{row.kind}{number} {row.architecture} {row.recipe}, seed {row.seed}: "
        f"{row.accuracy:.2%}, {row.macs / 1e6:.1f} M MACs, {row.processor_seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
