"""Commands as they can be typed: what comes next, on the study that is at hand."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from search.config.secrecy import concealed
from search.version import NAME


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
    path = Path(sys.argv[0])
    if path.suffix == ".py":
        return f"python {shlex.quote(str(path))}"
    return NAME if called() == NAME else "python -m run_study"


def called() -> str:
    """What its messages begin with."""
    return NAME if Path(sys.argv[0]).stem == NAME else "run_study"
