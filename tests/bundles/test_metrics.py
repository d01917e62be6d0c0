"""`metrics.json` by somebody else: one line that names the key, or the right values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from search.bundles.bundle import Bundle
from search.bundles.contents import BundleError
from search.bundles.metrics import Search, read, stated, written
from search.storage.finalists import choose
from search.storage.summary import summarize
from tests.bundles.conftest import COMMITTED
from tests.synthetic_study import config

CONTENT = (COMMITTED / "metrics.json").read_bytes()
SEARCH = {"trials": 1, "pruned": 0, "failed": 0, "proposals": 1, "rejected": {}}


def changed(path: str, value: Any) -> bytes:
    content = json.loads(CONTENT)
    *way, last = path.split("/")
    part = content
    for name in way:
        part = part[name]
    part[last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data/mean", []),
        ("data/mean", ["a", "b", "c"]),
        ("data/mean", [[0.5]] * 3),
        ("data/mean", None),
        ("data/mean", [2.0] * 3),
        ("data/std", [0.0, 0.2, 0.2]),
        ("data/std", [-0.1, 0.2, 0.2]),
        ("data/std", "abc"),
        ("data/std", {}),
        ("data/std", [1e308] * 3),
        ("data/classes", [1, 2]),
        ("data/test", -1),
        ("data/test", 2**64),
        ("data/test_fingerprint", 7),
        ("data/test_fingerprint", "\x1b[31m"),
        ("data", None),
        ("accuracy", []),
        ("accuracy/test", 1.5),
        ("accuracy/test", "high"),
        ("accuracy/test_correct", "8574"),
        ("accuracy/test_correct", 8574.5),
        ("accuracy/test_correct", True),
        ("accuracy/test_correct", 10**400),
        ("accuracy/test_loss", -1),
        ("accuracy/per_class", [1]),
        ("accuracy/per_class", {"cat": "x"}),
        ("cost", {"trial_pflop": "x"}),
        ("cost", {"trial_pflop": -1}),
        ("recipe", "x"),
        ("recipe", {"epochs": 3}),
        ("retrained", "maybe"),
        ("parameters", 2**200),
        ("parameters", None),
        ("files", []),
        ("files/model.py", 3),
        ("files/model.py", "0" * 63),
        ("search", []),
        ("search", {"trials": -1}),
        ("search", {**SEARCH, "rejected": {"dilated": "x"}}),
        ("search", {**SEARCH, "finalists": [{"trial": 0, "accuracy": 2, "trainings": 0}]}),
        ("version", 2),
        ("version", "1"),
    ],
)
def test_a_value_that_means_nothing_is_named(path: str, value: Any) -> None:
    with pytest.raises(BundleError) as told:
        read(changed(path, value))
    line = str(told.value)
    assert line.startswith(f"metrics.json: {path.replace('/', '.')}")
    assert len(line.splitlines()) == 1
    assert len(line) < 300


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data/mean", [0.5]),
        ("data/mean", [0.5] * 7),
        ("data/std", [0.5] * 4),
        ("data/classes", ["a"]),
    ],
)
def test_lengths_are_those_of_the_network(committed: Path, path: str, value: Any) -> None:
    (committed / "metrics.json").write_bytes(changed(path, value))
    with pytest.raises(BundleError, match=rf"{path.replace('/', '.')} must have \d+ entries"):
        Bundle.of(committed)


def test_a_bundle_made_before_may_state_less() -> None:
    content = json.loads(CONTENT)
    for key in ("study", "candidate", "recipe", "cost", "retrained", "seeds", "onnx_opset"):
        del content[key]
    del content["accuracy"]["per_class"], content["data"]["classes"]
    told = read(json.dumps(content).encode())
    assert (told.candidate, told.recipe, told.data.classes) == (None, None, None)
    assert told.accuracy.test == content["accuracy"]["test"]


def test_what_is_read_is_written_again_as_it_was() -> None:
    stated = json.loads(CONTENT)
    files = {name: (COMMITTED / name).read_bytes() for name in stated["files"]}
    again = json.loads(written(read(CONTENT), files))
    again["recipe"] = {key: again["recipe"][key] for key in stated["recipe"]}  # keys since then
    assert again == stated


def test_search_is_told_as_its_trials_are(finals: optuna.Study) -> None:
    told = Search.of(summarize(finals, config())).model_dump(mode="json")
    trials = [trial for trial in finals.trials if "finalist" not in trial.user_attrs]
    states = [trial.state.name for trial in trials]
    ended = [name for name in states if name in ("COMPLETE", "PRUNED", "FAIL")]
    assert told["trials"] == len(ended) < len(states)
    assert (told["pruned"], told["failed"]) == (states.count("PRUNED"), states.count("FAIL"))
    assert told["proposals"] == sum(trial.user_attrs["proposals"] for trial in trials)
    assert sum(told["rejected"].values()) == sum(
        sum(trial.user_attrs["rejected"].values()) for trial in trials
    )


def test_finalists_are_told_with_their_means_and_the_lost_one_with_its_reason(
    finals: optuna.Study,
) -> None:
    leader, second, lost = Search.of(summarize(finals, config())).finalists
    assert leader.trial == choose(finals).number
    for each in (leader, second):
        values = [
            trial.values[0]
            for trial in finals.trials
            if trial.user_attrs.get("finalist", {}).get("trial") == each.trial
        ]
        assert each.trainings == len(values) > 1
        assert each.mean == pytest.approx(np.mean(values), abs=0.002)
        assert each.accuracy == finals.trials[each.trial].values[0]
    assert (leader.probability or 0) + (second.probability or 0) == pytest.approx(1)
    assert (lost.trainings, lost.mean, lost.probability) == (0, None, None)
    assert lost.lost == "its training failed"


def test_what_a_later_version_states_is_kept() -> None:
    told = dict(stated(read(changed("awards", {"best": [1, 2]})).model_dump(mode="json")))
    assert (told["awards.best.0"], told["awards.best.1"]) == (1, 2)
