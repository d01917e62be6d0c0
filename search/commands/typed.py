"""Commands as they can be typed: what comes next, on the study that is at hand."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from search.config.secrecy import concealed


def typed(
    *words: str | Path,
    storage: str | None = None,
    overrides: Sequence[str] = (),
    modules: Sequence[str] = (),
) -> str:
    """A command line that can be pasted, by the name that this program was called by.

    A value that may hold what is secret is left out: it belongs into the environment.
    """
    told = [("--module", module) for module in modules]
    told += [("--set", change) for change in overrides]
    told += [("--storage", storage)] if storage is not None else []
    options = [word for pair in told if concealed(pair[1]) == pair[1] for word in pair]
    return f"{_program()} {shlex.join([*map(str, words), *options])}"


def _program() -> str:
    called = Path(sys.argv[0])
    if called.suffix == ".py":
        return f"python {shlex.quote(str(called))}"
    return "c1c4-search" if called.name == "c1c4-search" else "python -m run_study"
