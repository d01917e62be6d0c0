"""Errors that end a command: their classes say the exit code."""

from __future__ import annotations


class ConfigError(ValueError):
    """Bad usage or bad input: exit code 2."""


class MachineError(RuntimeError):
    """Data, device, storage or disk is not as it must be: exit code 3."""
