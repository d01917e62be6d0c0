from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.errors import ConfigError
from search.proposals.proposer import Acceptance, ExhaustedError, InfeasibleError
from search.storage.studies import load_study, study_storage
from search.workers.supervisor import Ending
from search.workers.worker import work
from tests.processes import (
    ask,
    code,
    created,
    epochs_run,
    start,
    study_file,
    wait_until,
    worker,
)

Stop = Callable[[], str | None]


def _constant(runs: Path, value: float = 0.5) -> Any:
    return lambda stop: lambda trial: value


def run(study: optuna.Study, make: Any, **section: Any) -> Ending:
    return work(study, study_file(**section), make)


def test_an_exact_number_of_trials_over_workers_and_resumes(url: str, tmp_path: Path) -> None:
    study = created(url, trials=5)
    processes = [start(worker, url, tmp_path, epochs=2, delay=0.01) for _ in range(3)]
    assert [code(process) for process in processes] == [0, 0, 0]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5
    assert not any(trial.user_attrs["worker"]["earlier"] for trial in study.trials)
    assert code(start(worker, url, tmp_path)) == 0
    assert len(study.trials) == 5
    created(url, trials=7)
    assert code(start(worker, url, tmp_path, epochs=2, delay=0.01)) == 0
    assert len(study.trials) == 7


def _pruned_then_failed(stop: Stop) -> Any:
    def train(trial: optuna.Trial) -> float:
        if trial.number == 0:
            raise optuna.TrialPruned
        if trial.number == 1:
            raise RuntimeError("broken")
        return 0.5

    return train


def test_pruned_trials_count_and_failed_ones_do_not(sqlite: str) -> None:
    study = created(sqlite, trials=3)
    assert run(study, _pruned_then_failed, trials=3) == Ending("the budget of 3 trials is spent", 0)
    assert [trial.state.name for trial in study.trials] == [
        "PRUNED",
        "FAIL",
        "COMPLETE",
        "COMPLETE",
    ]


def test_one_trial_alone_says_how_it_ended(sqlite: str) -> None:
    study = created(sqlite, trials=3)
    run(study, _pruned_then_failed, trials=3)
    words = ["trial 0 was pruned", "trial 1 failed: RuntimeError: broken"]
    for number, ended in enumerate(words):
        assert work(study, study_file(), _pruned_then_failed, number) == Ending(ended, 1)


@pytest.mark.parametrize("end", ["WAITING", "FAIL", "COMPLETE"])
def test_a_trial_that_ends_elsewhere_ends_no_worker(sqlite: str, end: str) -> None:
    """As after a suspension between the last epoch and the verdict."""
    study, other = created(sqlite, trials=2), load_study("toy", sqlite)

    def train(trial: optuna.Trial) -> float:
        if trial.number or other.trials[0].user_attrs["worker"]["earlier"]:
            return 0.5
        study_storage(other).requeue(trial._trial_id, trial.user_attrs["worker"])
        if end != "WAITING":
            other.tell(ask(other), 0.7 if end == "COMPLETE" else None, TrialState[end])
        return 0.1

    ending = run(study, lambda stop: train, trials=2)
    assert ending == Ending("the budget of 2 trials is spent", 0)
    values = {"WAITING": [0.5, 0.5], "FAIL": [None, 0.5, 0.5], "COMPLETE": [0.7, 0.5]}
    assert [trial.value for trial in study.trials] == values[end]


def test_a_trial_that_is_lost_is_no_failure(sqlite: str) -> None:
    study, other = created(sqlite), load_study("toy", sqlite)

    def train(trial: optuna.Trial) -> float:
        worker = trial.user_attrs["worker"]
        if not worker["earlier"]:
            assert study_storage(other).requeue(trial._trial_id, worker)
            trial.report(0.1, 1)
        return 0.5

    ending = run(study, lambda stop: train, failures=1)
    assert ending == Ending("the budget of 1 trial is spent", 0)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


def test_an_error_of_the_sampler_ends_the_worker(sqlite: str) -> None:
    class Broken(optuna.samplers.RandomSampler):
        def after_trial(self, *_: Any) -> None:
            raise ValueError("no sampler")

    study = created(sqlite, trials=2)
    study.sampler = Broken()
    with pytest.raises(ValueError, match="no sampler"):
        run(study, _constant(Path()), trials=2)


def test_a_budget_without_the_target_is_short(sqlite: str) -> None:
    study = created(sqlite, trials=2, target=0.9)
    ending = run(study, _constant(Path()), trials=2, target=0.9)
    assert ending == Ending("the budget of 2 trials is spent", 1)


def test_the_target_ends_the_study_and_no_trial_begins_after_it(sqlite: str) -> None:
    study = created(sqlite, trials=9, target=0.4)
    assert run(study, _constant(Path()), trials=9, target=0.4) == Ending("target 0.4 met", 0)
    assert len(study.trials) == 1
    assert run(study, _constant(Path()), trials=9, target=0.4) == Ending("target 0.4 met", 0)
    assert len(study.trials) == 1


def test_a_search_for_the_lowest_cost_goes_on_when_the_target_is_met(sqlite: str) -> None:
    section = {"target": 0.4, "objectives": ["accuracy", "pflop"], "pruner": "none", "trials": 3}
    study = created(sqlite, **section)
    ending = run(study, lambda stop: lambda trial: (0.5, 0.1), **section)
    assert ending == Ending("target 0.4 met", 0)
    assert len(study.trials) == 3


def test_a_trial_that_never_reaches_the_target_counts_whatever_that_would_cost(sqlite: str) -> None:
    section = {"target": 0.9, "objectives": ["accuracy", "pflop"], "pruner": "none", "trials": 2}
    study = created(sqlite, failures=1, **section)
    settings = {"failures": 1, **section}
    ending = run(study, lambda stop: lambda trial: (0.5, math.inf), **settings)
    assert ending == Ending("the budget of 2 trials is spent", 1)
    assert [trial.values for trial in study.trials] == [[0.5, math.inf]] * 2


def test_the_last_place_is_filled_when_another_worker_dies(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite, trials=1)
    first = start(worker, sqlite, tmp_path, epochs=1000)
    wait_until(lambda: epochs_run(tmp_path))
    second = start(worker, sqlite, tmp_path, epochs=3)
    time.sleep(0.5)
    assert second.exitcode is None  # waits: the only place is taken
    first.kill()
    first.join()
    assert code(second) == 0
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


@pytest.mark.parametrize(
    ("error", "said"),
    [(InfeasibleError(Acceptance(proposed=7)), "7 proposals"), (ConfigError("no such"), "no such")],
)
def test_what_every_trial_would_meet_ends_the_study(
    sqlite: str, error: Exception, said: str
) -> None:
    def fail(trial: optuna.Trial) -> float:
        raise error

    study = created(sqlite)
    with pytest.raises(type(error), match=said):
        run(study, lambda stop: fail)
    assert [trial.state.name for trial in study.trials] == ["FAIL"]


@pytest.mark.parametrize(("target", "code"), [(None, 0), (0.9, 1)])
def test_a_space_without_a_candidate_left_ends_the_search(
    sqlite: str, target: float | None, code: int
) -> None:
    error = ExhaustedError(Acceptance())

    def train(trial: optuna.Trial) -> float:
        if trial.number:
            raise error
        return 0.5

    study = created(sqlite, target=target, trials=5)
    assert run(study, lambda stop: train, target=target, trials=5) == Ending(str(error), code)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]


def _taken_over(url: str, runs: Path) -> None:
    study = load_study("toy", url)

    def make(stop: Stop) -> Any:
        def train(trial: optuna.Trial) -> float:
            trial.storage.set_trial_user_attr(trial._trial_id, "worker", {"claim": "another's"})
            (runs / "taken").touch()
            wait_until(lambda: stop() is not None or not (runs / "taken").exists())
            return 0.5

        return train

    sys.exit(work(study, study_file(), make).code)


def test_a_result_of_a_trial_that_was_taken_over_is_dropped(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite)
    process = start(_taken_over, sqlite, tmp_path)
    wait_until((tmp_path / "taken").exists)
    (tmp_path / "taken").unlink()
    time.sleep(0.5)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]
    os.kill(process.pid or 0, signal.SIGTERM)
    assert code(process) == 143
