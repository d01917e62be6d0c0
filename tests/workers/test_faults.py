"""Each fault happens to a real worker process on a real storage."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.config.files import load
from search.storage.checkpoints import checkpoint_path, load_checkpoint, save_checkpoint
from search.storage.studies import create_or_resume, load_study, study_config, study_storage
from tests.processes import (
    ROOT,
    code,
    created,
    epochs_run,
    running_postgresql,
    start,
    toy,
    wait_until,
    worker,
)

Stop = Callable[[], str | None]


def reason(runs: Path) -> str:
    return (runs / "reason").read_text()


def assert_whole(study: optuna.Study, epochs: int) -> None:
    """One trial, number 0, with every epoch and every report."""
    trials = study.trials
    assert [(trial.number, trial.state) for trial in trials] == [(0, TrialState.COMPLETE)]
    assert trials[0].user_attrs["history"] == list(range(1, epochs + 1))
    assert sorted(trials[0].intermediate_values) == list(range(1, epochs + 1))
    assert trials[0].value == trials[0].params["x"]


# --- killed ----------------------------------------------------------------------------


def test_kill_9_in_mid_trial(url: str, tmp_path: Path) -> None:
    study = created(url)
    process = start(worker, url, tmp_path, epochs=8)
    wait_until(lambda: len(epochs_run(tmp_path)) >= 3)
    process.kill()
    process.join()
    x, before = study.trials[0].params["x"], epochs_run(tmp_path)
    assert study.trials[0].state == TrialState.RUNNING
    assert code(start(worker, url, tmp_path, epochs=8)) == 0
    assert_whole(study, 8)
    assert study.trials[0].params["x"] == x
    again = epochs_run(tmp_path)[len(before) :]
    # The epoch in which it died may be trained twice, none before it.
    assert again[0][1] >= before[-1][1]
    assert again[-1] == (0, 8)
    assert code(start(worker, url, tmp_path)) == 0
    assert len(study.trials) == 1


def _digits(url: str, runs: Path) -> None:
    """A worker as the command line makes it, on scikit-learn's handwritten digits."""
    import torch

    import search.workers.objective
    from search.data.datasets import load
    from search.proposals.sampler import make_sampler
    from search.training.trainer import Trainer
    from search.workers.objective import Objective
    from search.workers.worker import work

    torch.set_num_threads(1)
    search.workers.objective.CHECKPOINT_INTERVAL = 0.0
    # Epochs since the last checkpoint are trained again, which is nothing to warn of.
    warnings.filterwarnings("error", message=".*already reported.*")
    study = load_study("quickstart", url)
    config = study_config(study)
    dataset = load(config.data)
    study.sampler = make_sampler(config, dataset.input, len(dataset.classes))

    def make(stop: Stop) -> Objective:
        trainer = Trainer(config, dataset, torch.device("cpu"), cache=runs / "cache")
        return Objective(config, trainer, runs=runs, stop=stop)

    sys.exit(work(study, config, make).code)


def test_kill_9_in_a_real_training(sqlite: str, tmp_path: Path) -> None:
    settings = [
        "study.finalists=1",
        "study.trials=1",
        "study.target=1.0",
        "training.epochs=5",
        "augmentation.epochs=1",
    ]
    study = create_or_resume(load(ROOT / "studies" / "quickstart.toml", settings), sqlite)
    process = start(_digits, sqlite, tmp_path)
    wait_until(lambda: study.trials and len(study.trials[0].intermediate_values) >= 2, 120)
    process.kill()
    process.join()
    killed = study.trials[0]
    assert code(start(_digits, sqlite, tmp_path)) in (0, 1)
    trials = study.trials
    assert [(trial.number, trial.state.name) for trial in trials] == [(0, "COMPLETE")]
    history = trials[0].user_attrs["history"]
    epochs = list(range(1, len(history) + 1))
    assert [record["epoch"] for record in history] == epochs
    assert sorted(trials[0].intermediate_values) == epochs
    assert trials[0].params == killed.params
    # It went on from a checkpoint: the first epoch is the one of the process that was killed.
    assert history[0] == killed.user_attrs["history"][0]
    for epoch, value in killed.intermediate_values.items():
        assert trials[0].intermediate_values[epoch] == value == history[epoch - 1]["accuracy"]
    assert trials[0].value == history[-1]["accuracy"]


def _suspend(process: int, database: Path) -> None:
    """Stops a worker, and not while it holds the lock that everybody else waits for."""
    while True:
        os.kill(process, signal.SIGSTOP)
        with closing(sqlite3.connect(database, timeout=0.1, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")
            except sqlite3.OperationalError:
                os.kill(process, signal.SIGCONT)
                time.sleep(0.01)
            else:
                return


def test_a_suspended_worker_that_wakes_leaves_its_trial_to_who_took_it_over(
    sqlite: str, tmp_path: Path
) -> None:
    study = created(sqlite)
    old = start(worker, sqlite, tmp_path, epochs=12)
    wait_until(lambda: len(epochs_run(tmp_path)) >= 2)
    _suspend(old.pid or 0, tmp_path / "study.db")
    before = epochs_run(tmp_path)
    with study_storage(study).engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-300 seconds')"
        )
    new = start(worker, sqlite, tmp_path, epochs=12)
    wait_until(lambda: len(epochs_run(tmp_path)) > len(before))
    os.kill(old.pid or 0, signal.SIGCONT)
    assert [code(old), code(new)] == [0, 0]
    assert_whole(study, 12)
    trial = study.trials[0]
    assert trial.user_attrs["worker"]["pid"] == new.pid
    assert trial.user_attrs["deaths"] == 1
    # Both may train the epoch in which the old one slept; then it looked, and stopped.
    assert 12 <= len(epochs_run(tmp_path)) <= 12 + 2


def _before_anything(runs: Path) -> Any:
    def make(stop: Stop) -> Any:
        def train(trial: optuna.Trial) -> float:
            (runs / "claimed").touch()
            time.sleep(60)
            return 0.0

        return train

    return make


def test_kill_9_before_anything_was_chosen(url: str, tmp_path: Path) -> None:
    study = created(url)
    process = start(worker, url, tmp_path, _before_anything)
    wait_until((tmp_path / "claimed").exists)
    process.kill()
    process.join()
    assert code(start(worker, url, tmp_path)) == 0
    assert_whole(study, 5)


def _save_for_ever(path: Path) -> None:
    import torch

    version = 0
    while True:
        version += 1
        save_checkpoint(path, {"version": version, "weights": torch.full((300_000,), version)})


def test_kill_9_while_a_checkpoint_is_saved(tmp_path: Path) -> None:
    path, last, rng = tmp_path / "a.checkpoint", 0, random.Random(0)
    for _ in range(6):
        process = start(_save_for_ever, path)
        wait_until(lambda: path.exists())
        time.sleep(rng.uniform(0.05, 0.2))
        process.kill()
        process.join()
        state = load_checkpoint(path)
        assert state is not None
        assert (state["weights"] == state["version"]).all()
        assert state["version"] > 0
        last = max(last, state["version"])
    assert last > 1


# --- signals ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_queues_the_trial_again(sqlite: str, tmp_path: Path, number: int) -> None:
    study = created(sqlite)
    process = start(worker, sqlite, tmp_path)
    wait_until(lambda: epochs_run(tmp_path))
    os.kill(process.pid or 0, number)
    assert code(process) == 128 + number
    assert study.trials[0].state == TrialState.WAITING
    before = epochs_run(tmp_path)
    assert code(start(worker, sqlite, tmp_path)) == 0
    assert_whole(study, 5)
    assert epochs_run(tmp_path)[len(before)] == (0, before[-1][1] + 1)


def test_a_second_ctrl_c_ends_at_once(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite)
    process = start(worker, sqlite, tmp_path, _before_anything)
    wait_until((tmp_path / "claimed").exists)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(0.5)
    assert process.exitcode is None  # busy with its step
    os.kill(process.pid or 0, signal.SIGINT)
    assert code(process, 30) == 130  # half of the step
    assert code(start(worker, sqlite, tmp_path)) == 0
    assert_whole(study, 5)


# --- disk and checkpoint ---------------------------------------------------------------


def _on_a_full_disk(runs: Path) -> Any:
    def make(stop: Stop) -> Any:
        def train(trial: optuna.Trial) -> float:
            path = checkpoint_path(runs, trial)
            path.with_name(f"{path.name}.tmp").symlink_to("/dev/full")
            return toy(runs)(stop)(trial)

        return train

    return make


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_the_study_resumes(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite)
    assert code(start(worker, sqlite, tmp_path, _on_a_full_disk)) == 3
    assert re.search(r"trial-000000-\w{8}\.checkpoint: No space left on device", reason(tmp_path))
    assert study.trials[0].state == TrialState.WAITING
    assert code(start(worker, sqlite, tmp_path)) == 0  # the failed save took the link away
    assert_whole(study, 5)


def test_a_corrupt_checkpoint_restarts_the_trial(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite)
    process = start(worker, sqlite, tmp_path)
    wait_until(lambda: len(epochs_run(tmp_path)) >= 2)
    os.kill(process.pid or 0, signal.SIGTERM)
    assert code(process) == 143
    before = epochs_run(tmp_path)
    (checkpoint,) = tmp_path.glob("trial-000000*.checkpoint")
    with checkpoint.open("r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2\3")
    assert code(start(worker, sqlite, tmp_path)) == 0
    assert epochs_run(tmp_path)[len(before)] == (0, 1)
    assert_whole(study, 5)


# --- databases that go wrong -----------------------------------------------------------


def _beats(url: str) -> str:
    storage = study_storage(load_study("toy", url))
    with storage.engine.connect() as connection:
        return str(connection.exec_driver_sql("SELECT heartbeat FROM trial_heartbeats").scalar())


def test_a_database_locked_for_ten_seconds_is_waited_for(sqlite: str, tmp_path: Path) -> None:
    study = created(sqlite)
    process = start(worker, sqlite, tmp_path, epochs=40, heartbeat=1)
    wait_until(lambda: epochs_run(tmp_path))
    first = _beats(sqlite)
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        time.sleep(10)
        database.execute("COMMIT")
    wait_until(lambda: _beats(sqlite) > first, seconds=5)
    assert code(process) == 0
    assert_whole(study, 40)


def test_a_corrupt_database_ends_the_worker_with_its_name(sqlite: str, tmp_path: Path) -> None:
    study_storage(created(sqlite)).engine.dispose()
    path = tmp_path / "study.db"
    process = start(worker, sqlite, tmp_path, epochs=1000)
    wait_until(lambda: epochs_run(tmp_path))
    for suffix in ("", "-wal"):
        file = path.with_name(path.name + suffix)
        file.write_bytes(b"\xff" * file.stat().st_size)
    assert code(process) == 3
    assert "study.db" in reason(tmp_path)


def _deleted(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def _replaced(path: Path) -> None:
    _deleted(path)
    created(f"sqlite:///{path}", trials=9)


@pytest.mark.parametrize("fault", [_deleted, _replaced])
def test_a_database_that_is_deleted_or_replaced_takes_its_study_along(
    sqlite: str, tmp_path: Path, fault: Callable[[Path], None]
) -> None:
    study_storage(created(sqlite)).engine.dispose()
    process = start(worker, sqlite, tmp_path, epochs=1000)
    wait_until(lambda: epochs_run(tmp_path))
    fault(tmp_path / "study.db")
    assert code(process, 20) == 3
    assert reason(tmp_path) == (
        f"storage {sqlite}: its study is gone: the file was deleted or replaced while this ran; "
        "launch it again"
    )


def test_a_study_that_is_deleted_ends_its_workers(url: str, tmp_path: Path) -> None:
    study = created(url)
    process = start(worker, url, tmp_path, epochs=1000)
    wait_until(lambda: epochs_run(tmp_path))
    optuna.delete_study(study_name="toy", storage=study_storage(study))
    assert code(process, 20) == 3
    assert "its study is gone: it was deleted while this ran; launch it again" in reason(tmp_path)


def test_dropped_connections_go_unnoticed(postgresql: Any, tmp_path: Path) -> None:
    postgresql.psql("DROP DATABASE IF EXISTS dropping; CREATE DATABASE dropping;")
    url = postgresql.get_uri(database="dropping")
    study = created(url, trials=3)
    process = start(worker, url, tmp_path)
    wait_until(lambda: epochs_run(tmp_path))
    while process.exitcode is None:
        postgresql.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'dropping'"
        )
        process.join(0.1)
    assert (process.exitcode, reason(tmp_path)) == (0, "the budget of 3 trials is spent")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    assert len(epochs_run(tmp_path)) == 15


LONG = 60
"""Epochs of 0.05 s that no server takes longer to stop than."""


def test_a_restarted_server_is_waited_for(tmp_path: Path) -> None:
    with running_postgresql() as server:
        url = server.get_uri()
        study = created(url)
        process = start(worker, url, tmp_path, epochs=LONG)
        wait_until(lambda: epochs_run(tmp_path))
        server.stop()
        time.sleep(1)
        assert process.exitcode is None
        server.ensure_postgres_running()
        assert code(process) == 0
        assert_whole(study, LONG)


def test_a_server_that_stays_away_ends_the_worker_and_a_resume_works(tmp_path: Path) -> None:
    with running_postgresql() as server:
        url = server.get_uri()
        created(url)
        process = start(worker, url, tmp_path, epochs=LONG, patience=1.0)
        wait_until(lambda: epochs_run(tmp_path))
        server.stop()
        assert code(process, 15) == 3
        assert reason(tmp_path).startswith("storage postgresql+psycopg://")
        server.ensure_postgres_running()
        assert code(start(worker, url, tmp_path, epochs=LONG)) == 0
        assert_whole(load_study("toy", url), LONG)
