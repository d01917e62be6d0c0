"""Errors that end a command: their classes say the exit code."""

from __future__ import annotations

import difflib
from collections.abc import Collection

WARNING = "warning: "
"""Begins a line of a worker's log that whoever launched it should know of."""


class LimitsError(Exception):
    """The limits allow nothing of what was asked for: exit code 1."""


class ConfigError(ValueError):
    """Bad usage or bad input: exit code 2."""


class NoStudyError(ConfigError):
    """No database holds a study of that name."""


class MachineError(RuntimeError):
    """Data, device, storage or disk is not as it must be: exit code 3."""


def require_known(key: str, name: str, known: Collection[str]) -> None:
    """Accepts a `name` that `key` may have.

    Raises:
        ConfigError: it is none of `known`; says which is near.
    """
    if name not in known:
        names = {each.lower(): each for each in known}
        near = difflib.get_close_matches(name.lower(), names, n=1)
        hint = f"; did you mean {names[near[0]]}?" if near else ""
        raise ConfigError(f"{key}: must be one of {', '.join(known)} (got {name!r}){hint}")


def first_line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shortened(text: str, largest: int = 60) -> str:
    """`text`, or its beginning: at most `largest` characters."""
    return text if len(text) <= largest else f"{text[: largest - 1]}…"


def printable(text: str) -> str:
    """`text` on one line, with escapes for whatever a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
