"""Runs the benchmarks one after the other: `make bench`, or `make bench BENCH="checker pipeline"`.

Each prints a Markdown table with machine, versions, n and spread.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    folder = Path(__file__).parent
    names = sys.argv[1:] or sorted(p.stem for p in folder.glob("[!_]*.py"))
    for name in names:
        print(f"\n## {name}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
