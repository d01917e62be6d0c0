"""Errors that end a command: their classes say the exit code."""

from __future__ import annotations


class ConfigError(ValueError):
    """Bad usage or bad input: exit code 2."""


class NoStudyError(ConfigError):
    """No database holds a study of that name."""


class MachineError(RuntimeError):
    """Data, device, storage or disk is not as it must be: exit code 3."""


def first_line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: str) -> str:
    """`text` on one line, with escapes for whatever a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
