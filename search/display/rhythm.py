"""How often a view reads what it shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 300.0
"""Seconds between two turns."""


class Rhythm:
    """Turns at least `pause` seconds apart that take one part in `share` of the time at most.

    But after no turn does the next one wait for more than `LONGEST` seconds: a turn in which
    the machine slept says nothing about the next one.
    """

    def __init__(self, pause: float, share: float) -> None:
        self._pause, self._share = pause, share
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for a turn."""
        return time.monotonic() >= self._next

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Measures what runs in it."""
        begin = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - begin
            self._next = begin + max(self._pause, min(self._share * took, LONGEST))
