"""Who wins where nothing was trained again; `tests/workers/test_finals.py` trains finalists."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.display import tables, wording
from search.errors import ConfigError
from search.storage.finalists import choose
from search.storage.studies import create_or_resume
from search.storage.summary import summarize
from tests.synthetic_study import build, config, train_finalists

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def study_of(url: str, *trials: tuple[TrialState, float | None]) -> optuna.Study:
    study = create_or_resume(config(), url)
    for state, value in trials:
        attributes = {"verdict": "accepted"}
        study.add_trial(create_trial(state=state, value=value, user_attrs=attributes))
    return study


def test_the_winner_is_the_most_accurate_completed_trial_and_of_two_the_earlier(
    sqlite: str,
) -> None:
    study = study_of(sqlite, (COMPLETE, 0.1), (COMPLETE, 0.7), (PRUNED, None), (COMPLETE, 0.7))
    assert choose(study).number == 1
    assert choose(study, 0).number == 0


COSTS: list[tuple[list[tuple[float, float]], list[int]]] = [
    ([(0.90, 0.04), (0.86, 0.02), (0.84, math.inf), (0.80, math.inf)], [1, 0, 2, 3]),
    ([(0.80, math.inf), (0.84, math.inf), (0.84, math.inf)], [1, 2, 0]),
    ([(0.86, 0.02), (0.87, 0.02)], [1, 0]),
]


@pytest.mark.parametrize(("trials", "order"), COSTS)
def test_where_cost_is_an_objective_the_cheapest_that_met_the_target_wins(
    trials: list[tuple[float, float]], order: list[int], sqlite: str
) -> None:
    settings = config(objectives=["accuracy", "pflop"], pruner="none", target=0.85)
    study = create_or_resume(settings, sqlite)
    for values in trials:
        cost = {} if math.isinf(values[1]) else {"pflop_to_target": values[1]}
        study.add_trial(create_trial(values=values, user_attrs={"verdict": "accepted", **cost}))
    assert choose(study).number == order[0]
    summary = summarize(study)
    assert [trial.number for trial in summary.best] == order
    accuracy, cost_of_best = trials[order[0]]
    told = f"{100 * accuracy:.2f} %"
    if summary.met:
        told += f" for {1e3 * cost_of_best:g} TFLOP"
    assert tables.study(summary)[3] == told
    assert wording.road(summary).startswith(f"met with {told}" if summary.met else told)


def test_a_finalist_is_exported_by_its_own_number(sqlite: str) -> None:
    settings = config(finalists=2, finalist_trainings=4)
    study = build(settings, sqlite, trials=3, running=0)
    train_finalists(study, settings, lost=-1)
    again = study.trials[-1]
    source = again.user_attrs["finalist"]["trial"]
    with pytest.raises(ConfigError, match=f"trial {again.number} trains trial {source} again"):
        choose(study, again.number)
    assert choose(study, source).number == source


@pytest.mark.parametrize(
    ("trials", "number", "message"),
    [
        ((), None, "no trial has completed yet"),
        (((PRUNED, None), (FAIL, None)), None, "no trial has completed yet"),
        (((PRUNED, None), (COMPLETE, 0.5)), 0, "trial 0 is pruned"),
        (((FAIL, None), (COMPLETE, 0.5)), 0, "trial 0 failed; "),
        (((COMPLETE, 0.5),), 7, "trial 7 does not exist"),
    ],
)
def test_what_cannot_be_exported_is_said(
    trials: tuple[tuple[TrialState, float | None], ...],
    number: int | None,
    message: str,
    sqlite: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(study_of(sqlite, *trials), number)


def test_what_was_told_to_optuna_alone_cannot_be_exported(sqlite: str) -> None:
    study = create_or_resume(config(), sqlite)
    study.add_trial(create_trial(value=0.5))
    with pytest.raises(ConfigError, match="trial 0 holds no network that the checker accepted; "):
        choose(study, 0)
