"""Runs the benchmarks one after the other.

    make bench                                   all that need no images
    make bench IMAGES=DIR                        with an imagefolder of CIFAR-10: more
    make bench BENCH="checker pipeline"          some

Each prints a Markdown table with machine, versions, n and spread.  `benchmarks.search` and
`benchmarks.landscape` take hours, and are called by themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WITH_IMAGES = {"sampling": ["--train"], "early_stopping": [], "target": [], "seconds": []}
ONLY_WITH_IMAGES = ("early_stopping", "target", "seconds")


def commands(names: list[str], images: str | None) -> list[list[str]]:
    """What to run: each benchmark by itself, and with images where it can use some."""
    found = [[name] for name in names if name not in ONLY_WITH_IMAGES]
    if images:
        found += [[name, *WITH_IMAGES[name], images] for name in names if name in WITH_IMAGES]
    return found


def main() -> None:
    folder = Path(__file__).parent
    names = sys.argv[1:] or sorted(p.stem for p in folder.glob("[!_]*.py"))
    for name, *arguments in commands(names, os.environ.get("IMAGES")):
        print(f"\n## {name}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=True)


if __name__ == "__main__":
    main()
