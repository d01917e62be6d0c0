"""Which search finds good networks at the least cost, simulated on a landscape.

    python -m benchmarks.search [TABLE] [--json] [--studies N] [--surrogate FAMILY] [--arms NAME…]

TABLE is a landscape; without it, the committed one.  Nothing is trained.  Every arm runs as many
whole studies, through the code that users run, in the same simulated worlds.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import optuna

from benchmarks.landscape.recipes import ROOT, settings
from benchmarks.landscape.table import load
from benchmarks.search.arms import ARMS, RANDOM
from benchmarks.search.document import document, markdown
from benchmarks.search.simulation import simulate
from benchmarks.search.surrogate import Family
from benchmarks.search.world import NETWORKS, Landscape, World
from search.errors import ConfigError

TABLE = ROOT / "docs" / "results" / "landscape.jsonl.gz"


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 2 for a table that nothing can be simulated on."""
    options = _options(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        told = compared(options.table, options.surrogate, options.studies, options.arms)
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
    return parser.parse_args(arguments)


def compared(path: Path, family: Family, studies: int, arms: Sequence[str]) -> dict[str, Any]:
    """The document of those arms, and of random, which all are held against.

    Raises:
        ConfigError: nothing can be simulated on the table.
    """
    landscape = landscape_of(path, family)
    worlds = [World(landscape, seed) for seed in range(studies)]
    runs = {}
    for name in dict.fromkeys((RANDOM, *arms)):
        count = math.ceil(ARMS[name].share * studies)
        print(f"{name}: {count} studies", file=sys.stderr, flush=True)
        runs[name] = [simulate(ARMS[name], worlds[seed], seed) for seed in range(count)]
    return document(landscape, worlds, runs)


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
