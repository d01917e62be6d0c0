"""What every network that a trial can train answers to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Network(ABC):
    """A network as data: `input` is (channels, height, width)."""

    __slots__ = ()

    input: tuple[int, int, int]

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many the network tells apart."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name this network."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, with the version of its format."""
