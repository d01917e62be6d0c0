"""When a worker stops, in real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from search.storage.studies import study_config
from search.workers.supervisor import SUPERVISOR, Ending
from search.workers.watch import Watch
from tests.processes import ROOT, ask, code, created, epochs_run, start, wait_until, worker


def test_the_target_met_elsewhere_stops_a_running_trial(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite, trials=9, target=1.0)
    process = start(worker, sqlite, tmp_path, epochs=1000)
    wait_until(lambda: epochs_run(tmp_path))
    study.add_trial(optuna.create_trial(value=1.0))
    assert code(process) == 0
    assert (tmp_path / "reason").read_text() == "target 1 met"
    assert [trial.state.name for trial in study.trials] == ["WAITING", "COMPLETE"]


def test_hours_are_counted_over_resumes(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite, trials=9, hours=1)
    process = start(worker, sqlite, tmp_path, epochs=1000)
    wait_until(lambda: study.user_attrs.get("clock", {}).get("seconds", 0) > 1)
    os.kill(process.pid or 0, signal.SIGTERM)
    assert code(process) == 143
    study.set_user_attr("clock", {"seconds": 3598.0, "at": time.time()})
    assert code(start(worker, sqlite, tmp_path, epochs=100_000)) == 0
    assert study.user_attrs["clock"]["seconds"] >= 3600
    assert [trial.state.name for trial in study.trials] == ["WAITING"]


def test_a_trial_that_takes_too_long_fails(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite, minutes=0.3 / 60, failures=1)
    assert code(start(worker, sqlite, tmp_path, epochs=1000)) == 1
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
    assert study.trials[0].user_attrs["failure"] == "TimeLimitError: time limit of 0.005 minutes"


def test_minutes_are_those_of_the_clock_and_of_each_trial(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, now = created(sqlite, minutes=2), [1_000.0]
    monkeypatch.setattr("search.workers.watch.time.monotonic", lambda: now[0])
    watch, trial = Watch(study, study_config(study)), ask(study)
    for _ in range(2):
        watch.begin(trial)
        now[0] += 119
        assert watch() is None
        now[0] += 2
        assert watch() == "time limit of 2 minutes"
        watch.end()
        assert watch() is None


def test_trials_taken_over_meet_no_target_once_they_are_refuted(sqlite: str) -> None:
    study = created(sqlite, target=0.9)
    watch = Watch(study, study_config(study))
    for _ in range(20):
        study.add_trial(_of(0.95, taken="old:0"))
    assert watch.ending(fresh=True) == Ending("target 0.9 met", 0)
    watch = Watch(study, study_config(study))
    for _ in range(2):
        study.add_trial(_of(0.2))
    assert watch.ending(fresh=True) is None
    assert watch.spent(22, "trial") == Ending("the budget of 22 trials is spent", 1)


def _of(accuracy: float, **attributes: str) -> optuna.trial.FrozenTrial:
    return optuna.create_trial(
        value=accuracy, intermediate_values={1: accuracy}, user_attrs=attributes
    )


def test_a_worker_whose_launch_is_gone_ends(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite)
    process = start(_orphan, sqlite, tmp_path)
    assert code(process) == 129
    assert not study.trials


def _orphan(url: str, runs: Path) -> None:
    os.environ[SUPERVISOR] = "1"
    worker(url, runs)


HANGING = """
import sys, time
import search.workers.watch
from search.storage.studies import load_study, study_storage
from tests.processes import worker
from pathlib import Path

search.workers.watch.LENIENCE = 0.5

def make(runs):
    def train(trial):
        claim = trial.user_attrs["worker"]
        if trial.number > sys.argv.count("again") or claim["earlier"]:
            return 0.5
        if "lost" in sys.argv:
            study_storage(load_study("toy", sys.argv[1])).requeue(trial._trial_id, claim)
        time.sleep(600)

    return lambda stop: train

worker(sys.argv[1], Path(sys.argv[2]), make)
"""


def test_a_trial_that_hangs_is_failed_and_its_worker_starts_again(
    sqlite: str, tmp_path: Path
) -> None:
    study = created(sqlite, minutes=0.5 / 60)
    _hang(sqlite, tmp_path)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[0].user_attrs["failure"].startswith("hung beyond its 0.00833")
    first, second = (trial.user_attrs["worker"]["pid"] for trial in study.trials)
    assert first == second


def test_a_worker_whose_hanging_trial_others_took_over_starts_again(
    sqlite: str, tmp_path: Path
) -> None:
    study = created(sqlite, minutes=0.5 / 60)
    _hang(sqlite, tmp_path, "lost")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]
    assert len(study.trials[0].user_attrs["worker"]["earlier"]) == 1


def test_trials_that_hang_in_a_row_end_the_search_as_others_that_fail(
    sqlite: str, tmp_path: Path
) -> None:
    study = created(sqlite, minutes=0.5 / 60, failures=2, trials=9)
    _hang(sqlite, tmp_path, "again", "again", code=1)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]
    reason = "2 trials in a row failed; the last: hung beyond its 0.00833333 minutes"
    assert (tmp_path / "reason").read_text() == reason


def _hang(*arguments: object, code: int = 0) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGING, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert ended.returncode == code
