"""Numbers that a bundle states, in the ways in which a stranger may write them."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from search.bundles import numbers
from search.bundles.contents import BundleError
from search.bundles.metrics import Metrics, read
from search.networks.architecture import Architecture
from tests.bundles.conftest import COMMITTED

CONTENT: dict[str, Any] = json.loads((COMMITTED / "metrics.json").read_text())
METRICS = read(json.dumps(CONTENT).encode())
README = (COMMITTED / "README.md").read_text()
LOG = (COMMITTED / "training_log.csv").read_bytes()
NETWORK = Architecture.from_json(json.loads((COMMITTED / "architecture.json").read_text()))


def stated(**changes: Any) -> Metrics:
    return read(json.dumps({**CONTENT, **changes}).encode())


def not_checked(said: str) -> set[str]:
    return set(said.partition("not checked: ")[2].split(", "))


@pytest.mark.parametrize(
    ("key", "value"),
    [("accuracy.test", 0.8576), ("", {"macs": 1}), ("data", {"a.b": 1, "a": {"b": 1}})],
)
def test_a_key_with_dots_hides_no_other(key: str, value: Any) -> None:
    """Else the right value stood beside the false one, and was compared in its place."""
    data = {**CONTENT["data"], **value} if key == "data" else value
    forged = stated(accuracy={**CONTENT["accuracy"], "test": 0.99}, **{key: data})
    with pytest.raises(BundleError, match="in two places"):
        numbers.compare(forged, {"accuracy.test": (0.8576, 1e-3)}, "texts")


def test_what_is_stated_as_missing_is_compared() -> None:
    with pytest.raises(BundleError, match="says receptive_field None, but it is 183"):
        numbers.compare(stated(receptive_field=None), {"receptive_field": (183, 0)}, "texts")
    lost = stated(accuracy={**CONTENT["accuracy"], "test_loss": None})
    numbers.compare(lost, {"accuracy.test_loss": (None, 0)}, "texts")


def test_a_number_that_follows_from_another_is_not_checked_by_that() -> None:
    said = numbers.compare(METRICS, {}, "texts")
    assert {"accuracy.test", "accuracy.test_correct"} <= not_checked(said)
    assert said.startswith("0 of metrics.json")
    forged = stated(accuracy={**CONTENT["accuracy"], "test": 0.99})
    with pytest.raises(BundleError, match=r"says accuracy\.test 0\.99, but it is 0\.8576"):
        numbers.compare(forged, {}, "texts")


def test_what_is_too_deep_is_told() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    with pytest.raises(BundleError, match=r"^metrics\.json: "):
        numbers.compare(stated(more=deep), {}, "texts")


HEAD = "| test accuracy |"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (HEAD, f"| Test accuracy |\n| --: |\n| 99 % |\n\n{HEAD}"),
        (HEAD, f"<!--\n{HEAD}"),
        (HEAD, f"```\n{HEAD}"),
        (HEAD, f"a\u2028{HEAD}\u2028| -- |\u2028| **85.76 %** |\u2028| Test accuracy |"),
        (HEAD, "| test\u00a0accuracy |"),
        ("44.2 TFLOP |\n", "44.2 TFLOP |\n| **99.99 %** |\n"),
        ("--: |", "99 % |"),
        ("44.2 TFLOP |\n", "44.2 TFLOP | 99 % |\n"),
        ("| parameters |", "| weights |"),
        ("| parameters |", "| parameters\u200b |"),
    ],
)
def test_no_word_of_a_first_table_that_is_another(old: str, new: str) -> None:
    assert numbers.require_headline(README.encode(), METRICS)
    assert old in README
    assert numbers.require_headline(README.replace(old, new, 1).encode(), METRICS) == ""


def test_the_cost_of_the_first_table_is_compared() -> None:
    dearer = README.replace("44.2 TFLOP |", "44.2 GFLOP |", 1)
    with pytest.raises(BundleError, match=r"says cost 44\.2 GFLOP, but metrics\.json 44\.2 T"):
        numbers.require_headline(dearer.encode(), METRICS)
    older = README.replace("44.2 TFLOP |", "0.0442 PFLOP |", 1)
    assert numbers.require_headline(older.encode(), METRICS)
    with pytest.raises(BundleError, match=r"says cost 0\.0441 PFLOP, but metrics\.json 44\.2 T"):
        numbers.require_headline(older.replace("0.0442 P", "0.0441 P", 1).encode(), METRICS)


def test_a_wide_table_is_read_once() -> None:
    """By an expression for bars between blanks this took hours."""
    wide = README.replace(HEAD, f"{HEAD} {' ' * 1_000_000}x |", 1)
    assert numbers.require_headline(wide.encode(), METRICS) == ""


def test_a_log_of_many_columns_takes_no_memory() -> None:
    head = ",".join(["run", "images", *map(str, range(5_000))])
    content = f"{head}\nsearch,1\n{'x' * 5}\n".encode() + b"x\n" * 2_000
    tracemalloc.start()
    try:
        numbers.from_log(content, "accuracy", METRICS, NETWORK)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20  # a row of all keys takes 80 KiB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("log", "recipe"),
    [
        (b"run,images\nsearch," + b"9" * 400, {}),
        (LOG, {"small_epochs": 1.0, "small_side": 1e308}),
        (LOG, {"small_epochs": 0.5, "epochs": 10**400}),
    ],
)
def test_what_has_no_cost_is_told(log: bytes, recipe: dict[str, Any]) -> None:
    metrics = stated(recipe={**CONTENT["recipe"], **recipe})
    with pytest.raises(BundleError, match="has no cost"):
        numbers.from_log(log, "accuracy", metrics, NETWORK)


def test_the_committed_log_tells_what_is_stated() -> None:
    found = numbers.from_log(LOG, "accuracy", METRICS, NETWORK)
    assert found["accuracy.validation"][0] == CONTENT["accuracy"]["validation"]
    assert found["cost.trial_pflop"][0] == pytest.approx(CONTENT["cost"]["trial_pflop"])
    assert found["cost.retraining_pflop"][0] == pytest.approx(CONTENT["cost"]["retraining_pflop"])


def test_constants_beyond_any_number_are_others() -> None:
    with pytest.raises(BundleError, match="MEAN is another"):
        numbers.require_constants({"MEAN": (10**400, 0.5, 0.5)}, METRICS)
