"""Which search finds good networks at the least cost, simulated on a landscape.

    python -m benchmarks.search [TABLE] [--json] [--studies N] [--surrogate FAMILY] [--arms NAME…]
                                [--kept FOLDER]

TABLE is a landscape; without it, the committed one.  Nothing is trained.  Every arm runs as many
whole studies, through the code that users run, in the same simulated worlds.  What FOLDER keeps of
the same table by the same commit is not run again (changes that are not committed do not tell).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import joblib
import optuna

from benchmarks.landscape.recipes import ROOT, settings
from benchmarks.landscape.table import load
from benchmarks.search.arms import ARMS, RANDOM
from benchmarks.search.document import document, markdown
from benchmarks.search.simulation import Run, simulate
from benchmarks.search.surrogate import Family
from benchmarks.search.world import NETWORKS, Landscape, World
from search.errors import ConfigError
from search.version import version

TABLE = ROOT / "docs" / "results" / "landscape.jsonl.gz"


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 2 for a table that nothing can be simulated on."""
    options = _options(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        told = compared(
            options.table, options.surrogate, options.studies, options.arms, options.kept
        )
    except ConfigError as error:
        print(f"search: {error}", file=sys.stderr)
        return 2
    print(json.dumps(told, indent=2) if options.json else markdown(told))
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.search", description=__doc__)
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    parser.add_argument("--studies", type=int, default=100, help="of each arm")
    parser.add_argument("--surrogate", choices=get_args(Family), default="process")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="NAME")
    parser.add_argument("--kept", type=Path, metavar="FOLDER", help="runs of an earlier time")
    return parser.parse_args(arguments)


def compared(
    path: Path, family: Family, studies: int, arms: Sequence[str], kept: Path | None
) -> dict[str, Any]:
    """The document of those arms, and of random, which all are held against.

    Raises:
        ConfigError: nothing can be simulated on the table.
    """
    landscape = landscape_of(path, family)
    worlds = [World(landscape, seed) for seed in range(studies)]
    told = f"{hashlib.sha256(path.read_bytes()).hexdigest()} {family} {version()}"
    run = joblib.Memory(kept, verbose=0).cache(_run, ignore=["world"])
    runs: dict[str, list[Run]] = {name: [] for name in (RANDOM, *arms)}
    for seed, world in enumerate(worlds):
        for name, done in runs.items():
            if seed < math.ceil(ARMS[name].share * studies):
                done.append(run(name, seed, told, world=world))
        print(f"seed {seed} of {studies}", file=sys.stderr, flush=True)
    return document(landscape, worlds, runs)


def _run(name: str, seed: int, told: str, world: World) -> Run:
    """One study; `told` is what its world and its code are known by."""
    return simulate(ARMS[name], world, seed)


def landscape_of(path: Path, family: Family) -> Landscape:
    """The table at `path`, ready for drawing worlds.

    Raises:
        ConfigError: the table is none of this program's, of other settings, or too small.
    """
    table = load(path, networks=NETWORKS)
    if table.header.settings != settings():
        raise ConfigError(f"{path}: is of other choices, limits or recipes than these")
    try:
        return Landscape(table, family)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
