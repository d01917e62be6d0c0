"""Proves a bundle again: its rules, code = weights = ONNX, its accuracy, and its numbers.

A bundle is untrusted.  Its files are read once, compared with their SHA-256, and used from
memory from then on; its code and its graph are not run in this process (`isolated.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.bundles import numbers
from search.bundles.bundle import Bundle
from search.bundles.contents import BundleError, UnknownError, unnamed
from search.bundles.parts.every import parts_of
from search.bundles.parts.part import Look, Part
from search.bundles.proof import FAILURES, Proof
from search.errors import ConfigError, printable, shortened


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.  `ok` is None where it could not be."""

    name: str
    ok: bool | None
    detail: str


def verify(bundle: Path, data_root: Path | None = None, seed: int | None = None) -> list[Check]:
    """The checks of the bundle in directory `bundle`.

    Where the files are not what `metrics.json` says, nothing else is looked at.
    `data_root` overrules where the bundle's data lies; nothing is downloaded, and nothing is
    written but temporary files.  `seed` repeats the random images of another run.

    Raises:
        ConfigError: there is no bundle.
    """
    if not os.path.lexists(bundle / "metrics.json"):
        raise ConfigError(f"{bundle}: no bundle (it holds no metrics.json)")
    try:
        found = Bundle.of(bundle)
        parts = parts_of(found.architecture)
        found.stated.require_named(name for part in parts for name in part.names)
    except BundleError as failure:
        return [Check("files", False, _shown(str(failure)))]
    # From the system, so that no bundle knows the images beforehand.
    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    digests = f"{len(found.files)} files have the SHA-256 that metrics.json names"
    others = _others(found)
    with Proof(found, data_root, seed) as proof:
        return [
            Check("files", True, digests),
            *([Check("other files", None, _shown(others))] if others else []),
            *(_look(name, look) for name, look in looks(proof).items()),
        ]


def looks(proof: Proof) -> Mapping[str, Look]:
    """The checks by name, in their order: those of each part, then those of `metrics.json`."""
    parts = [part(proof) for part in parts_of(proof.bundle.architecture)]
    checks = {name: look for part in parts for name, look in part.looks.items()}
    return {**checks, "numbers": lambda: _numbers(proof, parts), "accuracy": proof.accuracy}


def _numbers(proof: Proof, parts: Sequence[Part]) -> str:
    bundle, stated = proof.bundle, proof.bundle.stated
    found = dict(proof.found)
    for part in parts:
        found |= part.found
    headline = numbers.require_headline(bundle.files["README.md"], stated)
    comments = ", comments in model.py" if "model.py" in bundle.files else ""
    texts = (
        f"README.md{headline}, report.html{comments}, figures, training_log.csv, "
        "which alone tells accuracy.validation and the costs of training"
    )
    return numbers.compare(stated, found, texts)


def strange(bundle: Bundle) -> list[str]:
    """Files with a digest that are no part of a bundle."""
    parts = parts_of(bundle.architecture)
    return [name for name in bundle.files if not any(part.owns(name, bundle) for part in parts)]


def _others(bundle: Bundle) -> str:
    names = [*unnamed(bundle.place, bundle.files), *strange(bundle)]
    shown = f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
    return f"{len(names)} that are no part of a bundle, so not proved: {shown}" if names else ""


def _look(name: str, look: Look) -> Check:
    try:
        return Check(name, True, _shown(look()))
    except UnknownError as reason:
        return Check(name, None, _shown(str(reason)))
    except FAILURES as failure:
        return Check(name, False, _shown(str(failure)))


def _shown(text: str) -> str:
    """A bundle may name things as it likes."""
    return printable(shortened(text, 1_000))
