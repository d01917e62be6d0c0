"""The numbers that a bundle states beside those that were found; what is left is named."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from search.bundles.agreement import Tally
from search.bundles.contents import BundleError
from search.bundles.metrics import Metrics, stated
from search.config.candidate import Candidate
from search.display import wording
from search.networks.network import Network

# What was found, by the key of `metrics.json`, and by how much rounding may change it.
Found = dict[str, tuple[Any, float]]

_DESCRIBED = frozenset({"files", "version"})  # proved by digests, or no number
_EXACT = 1e-9
_ROUNDED = 1e-6  # as the code writes it


def tolerance(images: int) -> int:
    """Images that sums in another order may tip over the edge."""
    return max(1, images // 1_000)


def from_tally(tally: Tally, classes: tuple[str, ...] | None) -> Found:
    """What the test images tell."""
    total, correct = int(tally.members.sum()), int(tally.correct.sum())
    slack, loss = tolerance(total), tally.loss / total
    found: Found = {
        "accuracy.test": (correct / total, slack / total),
        "accuracy.test_correct": (correct, slack),
        "accuracy.test_loss": (loss, 1e-3 * max(1.0, loss)),
        "data.test": (total, 0),
    }
    there = tally.members > 0
    shares = tally.correct[there] / tally.members[there]
    tipped = slack / len(shares) / int(tally.members[there].min())
    found["accuracy.test_balanced"] = (float(shares.mean()), tipped + _EXACT)
    for name, right, count in zip(classes or (), tally.correct, tally.members, strict=False):
        share = float(right / count) if count else None
        found[f"accuracy.per_class.{name}"] = (share, slack / max(int(count), 1))
    return found


def from_itself(metrics: Metrics) -> Found:
    """What other numbers of the file imply, which tells nothing of their truth."""
    accuracy, images = metrics.accuracy, metrics.data.test
    return {"accuracy.test": (accuracy.test_correct / images, _EXACT)} if images else {}


def from_log(content: bytes, metric: str, metrics: Metrics, network: Network) -> Found:
    """What the log of the trainings tells: costs, and the accuracy that the study compares.

    Raises:
        BundleError: the log is no table.
    """
    try:
        rows = [*csv.DictReader(io.StringIO(content.decode()))]
        runs = {run: [row for row in rows if row["run"] == run] for run in ("search", "retraining")}
        seen = {run: int(part[-1]["images"]) if part else 0 for run, part in runs.items()}
        told = [float(row[metric]) for row in runs["search"] if row.get(metric)]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise BundleError(f"training_log.csv: {error}") from None
    found: Found = {"retrained": (bool(runs["retraining"]), 0)}
    if told:
        found["accuracy.validation"] = (told[-1], _EXACT)
    if metrics.recipe:
        candidate = Candidate(network, metrics.recipe)
        found["candidate"] = (candidate.hash, 0)
        for run, key in (("search", "trial_pflop"), ("retraining", "retraining_pflop")):
            cost = candidate.pflop(len(runs[run]), seen[run])
            found[f"cost.{key}"] = (cost, _EXACT * max(1.0, cost))
    return found


def require_constants(constants: Mapping[str, object], metrics: Metrics) -> None:
    """Accepts `MEAN`, `STD` and `CLASSES` of the code that are those of `metrics.json`.

    Raises:
        BundleError: they are others.
    """
    data = metrics.data
    for name, values in (("MEAN", data.mean), ("STD", data.std), ("CLASSES", data.classes)):
        if values is not None and not _alike(constants.get(name, values), values):
            raise BundleError(f"model.py: {name} is another than in metrics.json")


def _alike(given: object, values: tuple[Any, ...]) -> bool:
    if not isinstance(given, tuple) or len(given) != len(values):
        return False
    return all(_equal(a, b, _ROUNDED) for a, b in zip(given, values, strict=True))


def require_headline(readme: bytes, metrics: Metrics) -> str:
    """The part of the report's first table that says the same as `metrics.json`.

    Raises:
        BundleError: it says something else.
    """
    lines = readme.decode(errors="replace").splitlines()
    firsts = ("| test accuracy |", "| balanced test accuracy |")
    heads = [number for number, line in enumerate(lines) if line.startswith(firsts)]
    if len(heads) != 1 or len(lines) < heads[0] + 3:
        return ""
    names, cells = (re.split(r"\s*\|\s*", lines[heads[0] + n].strip("| ")) for n in (0, 2))
    again, once = metrics.again, metrics.accuracy.validation
    validation = again.words if again else wording.percent(once)
    expected = {
        "test accuracy": f"**{wording.percent(metrics.accuracy.test)}**",
        "balanced test accuracy": f"**{wording.percent(metrics.accuracy.test_balanced)}**",
        "validation accuracy": validation,
        "balanced validation accuracy": validation,
        "receptive field": f"{wording.count(metrics.receptive_field)} px",
        "parameters": wording.count(metrics.parameters),
        "MACs": wording.macs(metrics.macs),
    }
    for name, cell in zip(names, cells, strict=False):
        if cell != expected.get(name, cell):
            raise BundleError(f"README.md says {name} {cell}, but metrics.json {expected[name]}")
    return " but its first table"


def compare(metrics: Metrics, found: Mapping[str, tuple[Any, float]], texts: str) -> str:
    """Says what was compared, and names what was not; `texts` are other files.

    Raises:
        BundleError: the first stated value that is another than the found one.
    """
    values = dict(stated(metrics.model_dump(mode="json", exclude_none=True)))
    compared = [key for key in found if key in values]
    for key in compared:
        if not _equal(values[key], *found[key]):
            raise BundleError(
                f"metrics.json says {key} {values[key]!r}, but it is {found[key][0]!r}"
            )
    left = sorted({_group(key) for key in values if key not in found} - _DESCRIBED)
    return (
        f"{len(compared)} of metrics.json are right; not checked: {', '.join(left)} of it, {texts}"
    )


def _equal(given: Any, value: Any, slack: float) -> bool:
    if isinstance(given, int | float) and isinstance(value, int | float):
        return abs(given - value) <= slack
    return bool(given == value)


def _group(key: str) -> str:
    """Keys are named one by one in the sections whose other values are checked."""
    section, _, _ = key.partition(".")
    return ".".join(key.split(".")[:2]) if section in ("accuracy", "cost", "data") else section
