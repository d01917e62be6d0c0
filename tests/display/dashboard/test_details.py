"""The dashboard's quick answers beside its own, on a study that has everything."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import save_note, wsgi
from optuna_dashboard._inmemory_cache import _CachedExtraStudyProperty

from search.display.dashboard.annotation import write_note
from search.display.dashboard.browsed import Browsed
from search.display.dashboard.details import dashboard
from search.display.dashboard.internals import _Folded
from search.display.dashboard.refresh import Refresher
from search.storage.internals import storage_of, study_id, trial_id
from search.storage.studies import create_or_resume
from search.storage.summary import summarize
from tests.synthetic_study import build, config

CHOICES = CategoricalDistribution(["é", None, False, 1, 2.5, "1"])
PICTURE = {"artifact_id": "ff", "filename": "p.png", "mimetype": "image/png", "encoding": None}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    url = f"sqlite:///{tmp_path_factory.mktemp('details')}/demo.db"
    study = build(config(pruner="none"), url, trials=12, running=2)
    for trial in _odd_trials():
        study.add_trial(trial)
    study.enqueue_trial({"float": 0.5, "choice": None}, user_attrs={"why": "queued"})
    trials, attributes = study.get_trials(deepcopy=False), {}
    for trial, body in ((trials[3], "# A note\n" + 5_000 * "ö"), (trials[-1], "queued")):
        write_note(study, trial_id(trial), body)
    attributes[f"dashboard:artifacts:{trial_id(trials[4])}:ff"] = json.dumps(PICTURE)
    attributes[f"dashboard:artifacts:{trial_id(trials[4])}:fe"] = "null"  # one that was removed
    attributes["artifacts:ff"] = json.dumps(PICTURE)
    attributes[f"dashboard:plot_data:{trial_id(trials[4])}:0"] = "{}"
    for name, value in attributes.items():
        storage_of(study).set_study_system_attr(study_id(study), name, value)
    Refresher(study).tick(summarize(study), at_once=True)

    two = create_or_resume(config("two", objectives=["accuracy", "pflop"], pruner="none"), url)
    for number in range(6):
        two.add_trial(create_trial(values=[0.1 * number, number % 3]))
    create_or_resume(config("empty", pruner="none"), url)
    foreign = optuna.create_study(study_name="foreign", storage=storage_of(study))
    foreign.add_trial(_trial({"z": 1}, {"z": IntDistribution(0, 3)}))
    save_note(foreign, "of nobody here")
    return study


def _trial(params: dict[str, Any], kinds: dict[str, BaseDistribution], **more: Any) -> FrozenTrial:
    return create_trial(value=0.5, params=params, distributions=kinds, **more)


def _odd_trials() -> Iterator[FrozenTrial]:
    """Parameters that others lack, ranges that change, values that JSON has no number for."""
    yield _trial({"float": 1.0}, {"float": FloatDistribution(0, 2)})
    kinds = {"float": FloatDistribution(1, 4), "int": IntDistribution(2, 8, step=2)}
    yield _trial({"float": 3.0, "int": 4}, kinds)
    yield _trial({"int": -5}, {"int": IntDistribution(-5, 1)})
    yield _trial({"log": 1e-5}, {"log": FloatDistribution(1e-6, 1, log=True)})
    for choice in CHOICES.choices:
        yield _trial({"choice": choice}, {"choice": CHOICES})
    reports = {3: math.nan, 1: math.inf, 2: -math.inf, 0: 0.25}
    yield create_trial(state=TrialState.PRUNED, value=math.inf, intermediate_values=reports)
    attributes: dict[str, Any] = {
        **{"text": 'ü "quoted"', "whole": 3, "half": 2.5, "truth": True, "none": None},
        **{"long": list(range(1_000)), "nan": math.nan},
        **{"seconds": 3.14159, "rejected": {}, "pflop": 0.0123456, "history": [1]},
        **{"worker": {"host": "here", "pid": 3}, "finalist": {"trial": 3, "repeat": 1, "index": 0}},
    }
    yield create_trial(value=-math.inf, user_attrs=attributes)
    one = {"of failed": IntDistribution(0, 3)}
    yield create_trial(
        state=TrialState.FAIL,
        params={"of failed": 1},
        distributions=one,
        user_attrs={"whole": "word"},
    )
    system = {
        "constraints": [0.5, -1.0],
        "artifacts:ab": json.dumps(PICTURE),
        "artifacts:a": "null",
    }
    yield create_trial(value=0.9, system_attrs=system)


def _ask(app: Any, path: str, query: str) -> tuple[str, dict[str, str], Any]:
    environment = {"PATH_INFO": path, "QUERY_STRING": query}
    setup_testing_defaults(environment)
    answered: list[tuple[str, dict[str, str]]] = []
    body = b"".join(app(environment, lambda line, head, *_: answered.append((line, dict(head)))))
    ((status, headers),) = answered
    assert headers.pop("Content-Length") == str(len(body))
    return status, headers, _ordered(json.loads(body))


def _ordered(answer: Any) -> Any:
    """The dashboard keeps search spaces as sets: two of one name come in any order."""
    for name in ("union_search_space", "intersection_search_space"):
        if name in answer:
            answer[name] = sorted(answer[name], key=json.dumps)
    return answer


QUERIES = ("", "after=0", "after=3", "after=22", "after=1000", "after=-1", "after=x", "after=%203")


@pytest.mark.parametrize("query", QUERIES)
def test_a_study_reads_as_the_dashboard_would_write_it(study: optuna.Study, query: str) -> None:
    browsed = Browsed(study)
    for number in range(6):  # 5 is none
        path = f"/api/studies/{number}"
        assert _ask(dashboard(browsed, None), path, query) == _ask(wsgi(browsed), path, query)


def test_the_study_has_what_the_answers_are_compared_on(study: optuna.Study) -> None:
    _, _, answer = _ask(dashboard(Browsed(study), None), "/api/studies/1", "")
    trials, numbers = answer["trials"], range(len(answer["trials"]))
    assert [trial["number"] for trial in trials] == list(numbers)
    states = {"Complete", "Pruned", "Fail", "Running", "Waiting"}
    assert {trial["state"] for trial in trials} == states
    assert sum(bool(trial["note"]["body"]) for trial in trials) == 2
    assert sum(bool(trial["artifacts"]) for trial in trials) == 2
    reported = [report["value"] for trial in trials for report in trial["intermediate_values"]]
    assert {"nan", "inf", "-inf", 0.25} <= set(reported)
    assert {"inf", "-inf"} <= {value for trial in trials for value in trial.get("values", [])}
    names = [space["name"] for space in answer["union_search_space"]]
    assert names.count("int") == 2, "of two steps"
    assert not answer["intersection_search_space"]


def test_trials_that_end_and_begin_are_in_the_next_answer(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna_dashboard._storage.timedelta", lambda seconds: _Never())
    name = f"/api/studies/{study_id(study)}"
    browsed = Browsed(study)
    app, own = dashboard(browsed, None), wsgi(browsed)
    before = len(_ask(app, name, "")[2]["trials"])
    space = {"float": FloatDistribution(-9, 9), "new": IntDistribution(0, 3)}
    study.add_trial(_trial({"float": 8.0, "new": 2}, space))
    status, _, answer = _ask(app, name, f"after={before}")
    assert [trial["number"] for trial in answer["trials"]] == [before]
    widest = [s["distribution"] for s in answer["union_search_space"] if s["name"] == "float"]
    assert [(kind["low"], kind["high"]) for kind in widest] == [(-9, 9)]
    assert (status, answer) == _ask(own, name, f"after={before}")[::2]


class _Never:
    """No time is shorter: what was read is always old."""

    def __gt__(self, other: object) -> bool:
        return False


@pytest.mark.filterwarnings("ignore:The distribution is specified by:UserWarning")
def test_spaces_in_any_order_come_to_what_the_dashboard_finds() -> None:
    rng = random.Random(0)
    for _ in range(50):
        kinds = [
            {
                name: _kind(name, rng)
                for name in ("float", "int", "log", "step", "choice")
                if rng.random() < 0.9
            }
            for _ in range(5)
        ]
        spaces = [rng.choice(kinds) for _ in range(60)]
        ours, theirs = _Folded(), _CachedExtraStudyProperty()
        trials = [_sampled(number, space, rng) for number, space in enumerate(spaces)]
        for some in (20, 40, 60):
            ours.update(trials[:some])
            theirs.update(trials[:some])
            for name in ("union_search_space", "intersection_search_space"):
                found, expected = getattr(ours, name), getattr(theirs, name)
                assert sorted(map(str, found)) == sorted(map(str, expected))
            assert ours.union_user_attrs == theirs.union_user_attrs


def _kind(name: str, rng: random.Random) -> BaseDistribution:
    low, width = rng.randint(1, 9), rng.randint(2, 9)
    if name == "choice":
        return CategoricalDistribution(rng.sample(["a", "b", "c", 1, None], 3))
    if name in ("int", "step"):
        step = 1 if name == "int" else 3
        return IntDistribution(low, low + step * width, step=step)
    return FloatDistribution(low, low + width, log=name == "log")


def _sampled(number: int, space: dict[str, BaseDistribution], rng: random.Random) -> FrozenTrial:
    params = {
        name: kind.choices[0] if isinstance(kind, CategoricalDistribution) else kind.low
        for name, kind in space.items()
        if isinstance(kind, CategoricalDistribution | FloatDistribution | IntDistribution)
    }
    state = rng.choice([TrialState.COMPLETE, TrialState.FAIL])
    trial = create_trial(
        state=state,
        value=0.5 if state == TrialState.COMPLETE else None,
        params=params,
        distributions=space,
        user_attrs={rng.choice("xy"): rng.choice(["", 1])},
    )
    trial.number = number
    return trial
