"""A summary counts what it was given: trials made by hand, numbers added by hand."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from search.display import notebook
from search.display.dashboard.notes import study_note
from search.storage.claims import BudgetSpentError
from search.storage.studies import create_or_resume
from search.storage.summary import Progress, Summary, summarize
from tests.synthetic_study import config

NOW = datetime(2026, 1, 1, 12)


def _trial(state: TrialState, number: int, value: float | None = None, **facts: Any) -> FrozenTrial:
    start = None if state == TrialState.WAITING else NOW - timedelta(minutes=10 - number)
    return FrozenTrial(
        number=number,
        state=state,
        value=value,
        datetime_start=start,
        # The later a trial began, the sooner it ended: the road follows the ends.
        datetime_complete=NOW - timedelta(seconds=number) if state.is_finished() else None,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        user_attrs=facts,
        system_attrs={},
        intermediate_values=facts.pop("reports", {}),
        trial_id=number,
    )


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    study = create_or_resume(config(target=0.9, trials=9, hours=2), f"sqlite:///{tmp_path}/s.db")
    for trial in (
        _trial(TrialState.COMPLETE, 0, 0.8, proposals=5, accepted=2, rejected={"dilated": 3}),
        _trial(TrialState.COMPLETE, 1, 0.7, proposals=4, rejected={"dilated": 1, "macs": 3}),
        _trial(TrialState.PRUNED, 2, proposals=1, rejected={}, reports={1: 0.3, 2: 0.5}),
        _trial(TrialState.FAIL, 3, failure="the loss is nan"),
        _trial(TrialState.COMPLETE, 4, 0.8),
        _trial(TrialState.WAITING, 5),
    ):
        study.add_trial(trial)
    study.set_user_attr("clock", {"seconds": 1800.0, "at": 0})
    return summarize(study)


def test_the_funnel_adds_up(summary: Summary) -> None:
    # A trial that does not say how many it accepted accepted the one that it trains.
    assert (summary.proposed, summary.accepted) == (10, 4)
    assert summary.rejected == {"dilated": 4, "macs": 3}
    assert list(summary.rejected) == ["dilated", "macs"], "the most frequent first"


def test_states_and_budget(summary: Summary) -> None:
    assert {name: n for name, n in summary.states.items() if n} == {
        "complete": 3,
        "pruned": 1,
        "fail": 1,
        "waiting": 1,
    }
    assert summary.finished == 5
    assert summary.left == 2 * 3600 - 1800
    assert not summary.met


def test_the_best_come_first_and_of_equals_the_earlier(summary: Summary) -> None:
    assert [trial.number for trial in summary.best] == [0, 4, 1]


def test_the_road_follows_the_ends(summary: Summary) -> None:
    # Trial 4 (0.8) ended first, then 1 (0.7), then 0 (0.8).
    assert summary.road == (0.8, 0.8, 0.8)


def test_a_pruned_trial_stands_at_its_last_report(summary: Summary) -> None:
    pruned = summary.trials[2]
    assert (pruned.accuracy, pruned.epoch) == (0.5, 2)
    assert summary.trials[3].accuracy is None


def test_what_is_printed_is_json(summary: Summary) -> None:
    document = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert document["best"]["number"] == 0
    assert document["trials_left"] == 5
    assert document["proposals"] == {
        "proposed": 10,
        "accepted": 4,
        "rejected": {"dilated": 4, "macs": 3},
    }


def test_as_many_trials_are_left_as_the_study_begins(tmp_path: Path) -> None:
    study = create_or_resume(config(trials=5), f"sqlite:///{tmp_path}/s.db")
    for state, value in ((TrialState.COMPLETE, 0.8), (TrialState.FAIL, None)):
        study.add_trial(_trial(state, 0, value))
    left = summarize(study).to_json()["trials_left"]
    with pytest.raises(BudgetSpentError):
        study.optimize(lambda _: 0.5)
    assert left == len(study.trials) - 2 == 4
    summary = summarize(study)
    assert (summary.trained, summary.finished) == (5, 6)
    assert "5 of 5 trials finished" in notebook.html(summary)
    assert "5 of 5 trials finished" in study_note(summary, 0, NOW)


def test_time_left_of_a_resumed_trial_is_that_of_its_epochs() -> None:
    history = [{"seconds": 10.0}, {"seconds": 20.0}]
    running = _trial(
        TrialState.RUNNING, 1, recipe={"epochs": 6}, history=history, reports={1: 0.1, 2: 0.2}
    )
    assert Progress.of(running, NOW).eta == 4 * 15
    fresh = _trial(TrialState.RUNNING, 1, recipe={"epochs": 6})
    assert Progress.of(fresh, NOW).eta is None
    assert Progress.of(fresh, NOW).seconds == 9 * 60


def test_time_left_is_told_from_a_quarter_of_the_first_epoch_on() -> None:
    def left(done: float) -> float | None:
        moment = {"epoch": 1, "phase": "training", "done": done, "images_per_second": 500}
        trial = _trial(TrialState.RUNNING, 1, recipe={"epochs": 6}, moment=moment)
        return Progress.of(trial, NOW).eta

    assert left(0.2) is None
    assert left(0.3) == pytest.approx(9 * 60 / 0.3 * 5.7)


@pytest.mark.parametrize(
    ("seconds", "left"),
    [
        ([10.0], 2 * 10 + 3 * 40),  # three of six epochs have half the side, so a quarter of
        ([10.0, 10.0, 10.0], 3 * 40),  # the pixels
        ([10.0, 10.0, 10.0, 40.0, 40.0], 40),
    ],
)
def test_time_left_counts_the_pixels_of_the_epochs_to_come(
    seconds: list[float], left: float
) -> None:
    history = [{"seconds": each} for each in seconds]
    reports = dict.fromkeys(range(1, len(history) + 1), 0.5)
    facts = {
        "recipe": {"epochs": 6, "small_epochs": 0.45, "small_side": 0.5},
        "architecture": {"input": [3, 32, 32]},
    }
    trial = _trial(TrialState.RUNNING, 1, **facts, history=history, reports=reports)
    assert Progress.of(trial, NOW).eta == pytest.approx(left)


@pytest.mark.parametrize(("full", "small"), [(32, 24), (28, 24), (16, 16), (8, 8)])
def test_time_left_knows_that_small_images_have_sides_of_eights(full: int, small: int) -> None:
    facts = {
        "recipe": {"epochs": 6, "small_epochs": 0.5, "small_side": 0.75},
        "architecture": {"input": [1, full, full]},
        "history": [{"seconds": 10.0 * small**2}],
    }
    trial = _trial(TrialState.RUNNING, 1, **facts, reports={1: 0.5})
    left = 2 * 10.0 * small**2 + 3 * 10.0 * full**2
    assert Progress.of(trial, NOW).eta == pytest.approx(left)


def test_a_trial_that_was_stopped_in_its_first_epoch_has_a_time_left_when_it_runs_again() -> None:
    moment = {"epoch": 1, "phase": "training", "done": 0.5, "images_per_second": 500}
    stopped = {"history": [], "seconds": 0.0, "pflop": 0.0}  # as it leaves the queue
    trial = _trial(TrialState.RUNNING, 1, recipe={"epochs": 6}, moment=moment, **stopped)
    assert Progress.of(trial, NOW).eta == pytest.approx(9 * 60 / 0.5 * 5.5)
    assert Progress.of(trial, NOW).seconds == 9 * 60
    later = _trial(TrialState.RUNNING, 1, recipe={"epochs": 6}, seconds=100.0)
    assert Progress.of(later, NOW).seconds == 100 + 9 * 60


def test_no_number_is_no_accuracy() -> None:
    diverged = _trial(TrialState.PRUNED, 0, reports={1: float("nan")})
    assert Progress.of(diverged, NOW).accuracy is None


def test_an_empty_study_has_a_summary(tmp_path: Path) -> None:
    study: optuna.Study = create_or_resume(config("empty"), f"sqlite:///{tmp_path}/e.db")
    summary = summarize(study)
    assert summary.to_json()["best"] is None
    assert (summary.road, summary.started, summary.left) == ((), None, None)
