"""The numbers that a bundle states beside those that were found; what is left is named."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.bundles.agreement import Tally, tolerance
from search.bundles.contents import BundleError
from search.bundles.metrics import Metrics, stated
from search.config.candidate import Candidate
from search.display import wording
from search.errors import shortened
from search.networks.network import Network

# What was found, by the key of `metrics.json`, and by how much rounding may change it.
Found = dict[str, tuple[Any, float]]

_DESCRIBED = frozenset({"files", "version"})  # proved by digests, or no number
_CARD = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_EXACT = 1e-9
_ROUNDED = 1e-6  # as the code writes it


def from_tally(tally: Tally, classes: tuple[str, ...] | None) -> Found:
    """What the test images tell."""
    total, correct = int(tally.members.sum()), int(tally.correct.sum())
    slack, loss = tolerance(total), tally.loss / total
    told = (loss, 1e-3 * max(1.0, loss)) if math.isfinite(loss) else (None, 0)
    found: Found = {
        "accuracy.test": (correct / total, slack / total),
        "accuracy.test_correct": (correct, slack),
        "accuracy.test_loss": told,
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


def _implied(metrics: Metrics) -> Found:
    """What other numbers of the file imply, which tells nothing of their truth."""
    accuracy, images = metrics.accuracy, metrics.data.test
    return {"accuracy.test": (accuracy.test_correct / images, _EXACT)} if images else {}


def from_log(content: bytes, metric: str, metrics: Metrics, network: Network) -> Found:
    """What the log of the trainings tells: costs, and the accuracy that the study compares.

    Raises:
        BundleError: the log is no table.
    """
    try:
        runs = _runs(content, metric)
        seen = {run: int(part.images or 0) for run, part in runs.items()}
    except (ValueError, csv.Error) as error:
        raise BundleError(f"training_log.csv: {error}") from None
    found: Found = {"retrained": (runs["retraining"].epochs > 0, 0)}
    told = runs["search"].told
    if told is not None:
        found["accuracy.validation"] = (told, _EXACT)
    if metrics.recipe:
        candidate = Candidate(network, metrics.recipe)
        found["candidate"] = (candidate.hash, 0)
        for run, key in (("search", "trial_pflop"), ("retraining", "retraining_pflop")):
            try:
                cost = candidate.pflop(runs[run].epochs, seen[run])
            except (ArithmeticError, LookupError, ValueError) as error:
                raise BundleError(
                    f"the recipe in metrics.json and training_log.csv: {run} has no cost ({error})"
                ) from None
            found[f"cost.{key}"] = (cost, _EXACT * max(1.0, cost))
    return found


@dataclass
class _Run:
    """What the log says of a training: its epochs, the images of the last one and the last
    accuracy, as far as it names them."""

    epochs: int = 0
    images: str = ""
    told: float | None = None


def _runs(content: bytes, metric: str) -> dict[str, _Run]:
    """The trainings by name, row by row: a stranger's table may have any number of columns.

    Raises:
        ValueError, csv.Error: it is no table of trainings.
    """
    rows = csv.reader(io.StringIO(content.decode()))
    names = next(rows, [])
    keys = [names.index(name) for name in ("run", "images")]
    keys += [names.index(metric)] if metric in names else []
    runs = {"search": _Run(), "retraining": _Run()}
    for row in rows:
        run, images, *measured = (row[key] if key < len(row) else "" for key in keys)
        if run in runs:
            part = runs[run]
            part.epochs, part.images = part.epochs + 1, images
            part.told = float(measured[0]) if any(measured) else part.told
    return runs


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
    text = _CARD.sub("", readme.decode(errors="replace"))
    lines = re.split(r"\r\n|\r|\n", text)
    firsts = ("| test accuracy |", "| balanced test accuracy |")
    head = next((number for number, line in enumerate(lines) if line.startswith(firsts)), None)
    # Beside a title anything may stand before it: another table, or what hides this one.
    if head is None or len(lines) < head + 3 or any(map(_no_title, lines[:head])):
        return ""
    names, rule, cells = (_cells(lines[head + n]) for n in range(3))
    if not len(names) == len(rule) == len(cells) or any(each.strip(":-") for each in rule):
        return ""
    if any(line.strip() for line in lines[head + 3 : head + 4]):  # another row, or what hides these
        return ""
    again, once = metrics.again, metrics.accuracy.validation
    validation = again.words if again else wording.percent(once)
    cost = wording.flops(metrics.cost.get("trial_pflop"))
    expected = {
        "test accuracy": f"**{wording.percent(metrics.accuracy.test)}**",
        "balanced test accuracy": f"**{wording.percent(metrics.accuracy.test_balanced)}**",
        "validation accuracy": validation,
        "balanced validation accuracy": validation,
        "receptive field": f"{wording.count(metrics.receptive_field)} px",
        "parameters": wording.count(metrics.parameters),
        "MACs": wording.macs(metrics.macs),
        "cost": cost,
        "training of the trial": cost,  # as older bundles call it
    }
    if not expected.keys() >= set(names):
        return ""
    for name, cell in zip(names, cells, strict=True):
        if _as_written_now(cell) != expected[name]:
            raise BundleError(f"README.md says {name} {cell}, but metrics.json {expected[name]}")
    return " but its first table"


def _as_written_now(cell: str) -> str:
    """Older bundles have every cost in PFLOP."""
    cost = re.fullmatch(r"(\d+(?:\.\d+)?) PFLOP", cell)
    return wording.flops(float(cost[1])) if cost else cell


def _no_title(line: str) -> bool:
    return bool(line) and not line.startswith("# ")


def _cells(row: str) -> list[str]:
    inner = row.strip().removeprefix("|").removesuffix("|")
    return [cell.strip() for cell in inner.split("|")]


def compare(metrics: Metrics, found: Mapping[str, tuple[Any, float]], texts: str) -> str:
    """Says what was compared, and names what was not; `texts` are other files.

    Raises:
        BundleError: the first stated value that is another than the found one.
    """
    values = _by_key(metrics)
    for key, (value, slack) in [*_implied(metrics).items(), *found.items()]:
        if key in values and not _equal(values[key], value, slack):
            raise BundleError(f"metrics.json says {key} {values[key]!r}, but it is {value!r}")
    compared = found.keys() & values.keys()
    told = {key for key, value in values.items() if value is not None}
    left = sorted({_group(key) for key in told - compared} - _DESCRIBED)
    return (
        f"{len(compared)} of metrics.json are right; not checked: {', '.join(left)} of it, {texts}"
    )


def _by_key(metrics: Metrics) -> dict[str, Any]:
    """Every value that the file states.

    Raises:
        BundleError: two have one key, for a name may hold dots: `accuracy.test` beside `accuracy`.
    """
    values: dict[str, Any] = {}
    try:
        content = metrics.model_dump(mode="json", exclude_unset=True)
    except ValueError as error:  # pydantic reads what it finds too deep to write
        raise BundleError(f"metrics.json: {error}") from None
    for key, value in stated(content):
        if key in values:
            raise BundleError(f"metrics.json says {shortened(repr(key))} in two places")
        values[key] = value
    return values


def _equal(given: Any, value: Any, slack: float) -> bool:
    if isinstance(given, int | float) and isinstance(value, int | float):
        try:
            return abs(given - value) <= slack
        except OverflowError:  # a whole number beyond any of floating point
            return False
    return bool(given == value)


def _group(key: str) -> str:
    """Keys are named one by one in the sections whose other values are checked."""
    section, _, _ = key.partition(".")
    return ".".join(key.split(".")[:2]) if section in ("accuracy", "cost", "data") else section
