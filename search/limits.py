"""What a rule is: what it asks of a network, how far that is kept, and how it reads.

Which rules there are stands in `constraints`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from search.analysis.facts import Facts
from search.analysis.table import Analysis


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: what was found, what is allowed, and that in words.

    `excess` > 0 says how far from legal, relative to the limit.
    """

    rule: str
    found: int | None
    limit: int
    message: str
    excess: float = field(default=1.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "found": self.found,
            "limit": self.limit,
            "message": self.message,
        }


LIMITS: dict[str, type[Limit]] = {}


@dataclass(frozen=True, slots=True)
class Limit(ABC):
    """One rule, `words comparison value`: `depth at most 20`.

    A subclass names it in `key`, and joins `LIMITS` by being defined; `words` is its name
    where it shows, the key with spaces where none is given.  `of_widths` says whether
    scaling the widths of a network may mend it.
    """

    value: int
    key: ClassVar[str]
    words: ClassVar[str]
    comparison: ClassVar[str]
    lowest: ClassVar[int] = 1
    of_widths: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        if "key" in vars(cls):
            cls.words = vars(cls).get("words", cls.key.replace("_", " "))
            LIMITS[cls.key] = cls

    def __str__(self) -> str:
        return f"{self.words} {self.comparison} {self.value:,}"

    @abstractmethod
    def found(self, network: Facts | Analysis) -> int | None:
        """What `network` has of it; None, no value, breaks the rule."""

    @abstractmethod
    def distance(self, found: int) -> int:
        """How far `found` is beyond the limit, at most 0 where it keeps it."""

    @abstractmethod
    def message(self, found: int | None, network: Facts | Analysis) -> str:
        """What is wrong with a network that breaks the rule."""

    def asks_less(self, other: Limit) -> bool:
        """Whether it keeps what `other`, the same rule, breaks."""
        edge = range(self.value - 1, self.value + 2)
        return any(self.distance(found) <= 0 < other.distance(found) for found in edge)

    def violation(self, network: Facts | Analysis) -> Violation | None:
        """What `network` breaks of the rule, None where it keeps it."""
        found = self.found(network)
        distance = self.value + 1 if found is None else self.distance(found)
        if distance <= 0:
            return None
        message = self.message(found, network)
        return Violation(self.key, found, self.value, message, distance / max(self.value, 1))


class Below(Limit):
    """Something counted, `noun`, must stay below the limit; the limit itself is rejected."""

    noun: ClassVar[str]
    comparison = "<"

    def distance(self, found: int) -> int:
        return found - self.value + 1

    def message(self, found: int | None, network: Facts | Analysis) -> str:
        return f"{self.noun} must stay below {self.value:,}, but got {found:,}"


class AtMost(Limit):
    """Something counted, `noun` with (s) where several have one, must not exceed the limit."""

    noun: ClassVar[str]
    comparison = "at most"

    def distance(self, found: int) -> int:
        return found - self.value

    def message(self, found: int | None, network: Facts | Analysis) -> str:
        return f"at most {counted(self.value, self.noun)} allowed, but got {found}"


class AtLeast(Limit):
    """A kind of thing, `noun` with (s) where several have one, must occur so often or more."""

    noun: ClassVar[str]
    comparison = "at least"

    def distance(self, found: int) -> int:
        return self.value - found

    def message(self, found: int | None, network: Facts | Analysis) -> str:
        return f"at least {counted(self.value, self.noun)} needed, but got {found}"


def counted(number: int, noun: str) -> str:
    """1, `layer(s)` -> `1 layer`; 2 -> `2 layers`."""
    return f"{number} {noun.replace('(s)', '' if number == 1 else 's')}"
