"""What tracing raises."""

from __future__ import annotations


class TraceError(ValueError):
    """A module that cannot be analyzed, and what its owner can do about it."""


class UnknownOperationError(TraceError):
    """An operation of which it is not known what it reads."""


class LayoutError(ValueError):
    """A rearrangement that is no product of digits."""
