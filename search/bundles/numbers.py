"""The numbers that a bundle states beside those that were found; what is left is named."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from search.bundles.agreement import Tally
from search.bundles.contents import BundleError
from search.bundles.metrics import Metrics, stated

_DESCRIBED = frozenset({"files", "version"})  # proved by name, or no number


def tolerance(images: int) -> int:
    """Images that sums in another order may tip over the edge."""
    return max(1, images // 1_000)


def from_tally(tally: Tally, classes: tuple[str, ...] | None) -> dict[str, tuple[Any, float]]:
    """What the test images tell: values by key, each with the difference that rounding may
    make."""
    total = int(tally.members.sum())
    slack = tolerance(total)
    correct = int(tally.correct.sum())
    found: dict[str, tuple[Any, float]] = {
        "accuracy.test": (correct / total, slack / total),
        "accuracy.test_correct": (correct, slack),
        "accuracy.test_loss": (tally.loss / total, 1e-3 * max(1.0, tally.loss / total)),
        "data.test": (total, 0),
    }
    for name, right, count in zip(classes or (), tally.correct, tally.members, strict=False):
        share = float(right / count) if count else None
        found[f"accuracy.per_class.{name}"] = (share, slack / max(int(count), 1))
    return found


def from_log(content: bytes) -> dict[str, tuple[Any, float]]:
    """The validation accuracy that the log of the search ends with.

    Raises:
        BundleError: the log is no table.
    """
    try:
        rows = [*csv.DictReader(io.StringIO(content.decode()))]
        told = [
            float(row["accuracy"]) for row in rows if row["run"] == "search" and row["accuracy"]
        ]
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise BundleError(f"training_log.csv: {error}") from None
    return {"accuracy.validation": (told[-1], 1e-9)} if told else {}


def compare_numbers(metrics: Metrics, found: Mapping[str, tuple[Any, float]]) -> str:
    """Says what was compared, and names what was not.

    Raises:
        BundleError: the first stated value that is another than the found one.
    """
    values = dict(stated(metrics.model_dump(mode="json", exclude_none=True)))
    compared = 0
    for key, (value, slack) in found.items():
        if key not in values:
            continue
        given = values[key]
        if not _equal(given, value, slack):
            raise BundleError(f"metrics.json says {key} {json.dumps(given)}, but it is {value}")
        compared += 1
    left = sorted({_group(key) for key in values if key not in found} - _DESCRIBED)
    others = "README.md, report.html, training_log.csv, figures"
    return f"{compared} of metrics.json are right; not checked: {', '.join([*left, others])}"


def _equal(given: Any, value: Any, slack: float) -> bool:
    if isinstance(given, int | float) and isinstance(value, int | float):
        return abs(given - value) <= slack
    return bool(given == value)


def _group(key: str) -> str:
    """Keys are named one by one in the sections whose other values are checked."""
    section, _, _ = key.partition(".")
    return ".".join(key.split(".")[:2]) if section in ("accuracy", "data") else section
