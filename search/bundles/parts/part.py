"""What a part of a bundle is: it writes itself, and verifies itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from search.bundles.bundle import Bundle
from search.bundles.findings import Findings
from search.bundles.numbers import Found
from search.bundles.proof import Proof

Look = Callable[[], str]


class Part(ABC):
    """A part of the bundle that `proof` is about.

    `names` are the files that every bundle has of it.
    """

    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, proof: Proof) -> None:
        self.proof = proof
        self.bundle = proof.bundle

    @classmethod
    @abstractmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        """Its files, by name."""

    @classmethod
    def owns(cls, name: str, bundle: Bundle) -> bool:
        """Whether file `name` of `bundle` belongs to it."""
        return name in cls.names

    @property
    def looks(self) -> Mapping[str, Look]:
        """The checks by name, in their order.  Each says what it found, or raises one of
        `proof.FAILURES`, or `UnknownError` where it cannot be looked at."""
        return {}

    @property
    def found(self) -> Found:
        """What it tells of the numbers in `metrics.json`.

        Raises:
            BundleError: it contradicts them in words of its own.
        """
        return {}
