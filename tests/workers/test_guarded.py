"""Trials that go wrong, in real worker processes."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.errors import MachineError
from search.storage.studies import study_config
from search.training.training import DivergedError
from search.workers.guarded import in_one_line
from search.workers.supervisor import Ending
from search.workers.worker import work
from tests.processes import code, created, start, worker

Stop = Callable[[], str | None]


def test_an_error_is_told_in_one_line() -> None:
    assert in_one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert in_one_line(KeyError()) == "KeyError"


def _hungry(runs: Path, always: bool, host: bool) -> Any:
    """Asks for a petabyte with the whole batch, and with half of it when `always`."""

    def make(stop: Stop) -> Any:
        def train(trial: optuna.Trial) -> float:
            import torch

            if trial.number == 0 and (always or "batch_divisor" not in trial.user_attrs):
                bytearray(1 << 50) if host else torch.empty(1 << 50, dtype=torch.uint8)
            return 0.5

        return train

    return make


@pytest.mark.parametrize("host", [False, True])
def test_out_of_memory_tries_half_the_batch_once(sqlite: str, tmp_path: Path, host: bool) -> None:
    study = created(sqlite)
    assert code(start(worker, sqlite, tmp_path, _hungry, always=False, host=host)) == 0
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]
    assert study.trials[0].user_attrs["batch_divisor"] == 2


def test_the_system_may_tell_that_memory_is_out(sqlite: str) -> None:
    def train(trial: optuna.Trial) -> float:
        if "batch_divisor" not in trial.user_attrs:
            mmap.mmap(-1, 1 << 50)
        return 0.5

    study = created(sqlite)
    assert work(study, study_config(study), lambda stop: train).code == 0
    assert study.trials[0].user_attrs["batch_divisor"] == 2


@pytest.mark.parametrize("host", [False, True])
def test_out_of_memory_fails_the_trial_alone(sqlite: str, tmp_path: Path, host: bool) -> None:
    study = created(sqlite, trials=2)
    assert code(start(worker, sqlite, tmp_path, _hungry, always=True, host=host)) == 0
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "even with half the batch" in study.trials[0].user_attrs["failure"]


def _diverging(runs: Path, times: int) -> Any:
    def make(stop: Stop) -> Any:
        def train(trial: optuna.Trial) -> float:
            if trial.number < times:
                raise DivergedError("loss is nan in epoch 1")
            return 0.5

        return train

    return make


def test_a_diverged_trial_fails_with_its_reason(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite, trials=2)
    assert code(start(worker, sqlite, tmp_path, _diverging, times=1)) == 0
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[0].user_attrs["failure"] == "DivergedError: loss is nan in epoch 1"
    assert study.best_trial.number != 0


def test_only_failures_in_a_row_stop_the_worker(sqlite: str) -> None:
    def train(trial: optuna.Trial) -> float:
        if trial.number % 2 == 0:
            raise DivergedError("loss is nan in epoch 1")
        if trial.number == 1:
            raise optuna.TrialPruned
        return 0.5

    study = created(sqlite, trials=3, failures=2)
    ending = work(study, study_config(study), lambda stop: train)
    assert ending == Ending("the budget of 3 trials is spent", 0)
    states = [trial.state.name for trial in study.trials]
    assert states == ["FAIL", "PRUNED", "FAIL", "COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_without_room_ends_the_worker_and_no_trial(sqlite: str, number: int) -> None:
    def train(trial: optuna.Trial) -> float:
        raise OSError(number, os.strerror(number), "a.checkpoint")

    study = created(sqlite)
    with pytest.raises(MachineError, match=f"a.checkpoint: {os.strerror(number)}"):
        work(study, study_config(study), lambda stop: train)
    assert [trial.state.name for trial in study.trials] == ["WAITING"]


def _not_a_number(runs: Path) -> Any:
    return lambda stop: lambda trial: float("nan") if trial.number == 0 else 0.5


def test_a_value_that_is_no_number_is_never_the_best(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite)
    assert code(start(worker, sqlite, tmp_path, _not_a_number)) == 0
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert "nan" in study.trials[0].user_attrs["failure"]


def test_failures_in_a_row_stop_the_worker(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite, trials=9, failures=3)
    assert code(start(worker, sqlite, tmp_path, _diverging, times=99)) == 1
    assert len(study.trials) == 3
    assert (tmp_path / "reason").read_text() == (
        "3 trials in a row failed; the last: DivergedError: loss is nan in epoch 1"
    )
