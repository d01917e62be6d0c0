"""What a trial costs beside its training.

    python -m benchmarks.overhead [--sizes 10 1000] [--trials 20]

Real trials of `studies/cifar10.toml` on 64 of scikit-learn's digits, so that next to nothing
is trained while everything around it happens as always: Optuna's claim, proposals and checker,
building, checkpoints, reports, attributes, note, pictures.  These trainings take a second or
two, so the interval between checkpoints is cut to make as many as in a trial of 60 seconds.
SQLite on a local disk.  Prints Markdown: milliseconds of the clock per stage, median
(lowest–highest), by number of trials in the study; then what does not hold a trial up.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta

import search.workers.objective
from benchmarks.bookkeeping import STUDY, grow
from search.config.files import load
from search.config.sections import StudyConfig
from search.data import datasets
from search.display.dashboard import annotation, refresh
from search.display.dashboard.notes import trial_note
from search.display.dashboard.pictures import Gallery
from search.networks.architecture import Architecture
from search.proposals.sampler import FeasibleSampler, make_sampler
from search.storage.checkpoints import artifact_store
from search.storage.database import StudyStorage
from search.storage.studies import create_or_resume, study_storage
from search.storage.summary import summarize
from search.training.trainer import Trainer
from search.training.training import Training
from search.workers.objective import Finished, Objective, make_pruner

IMAGES, TRIAL = 64, 60.0  # images of a training; seconds of the trial that it stands for
INTERVAL = search.workers.objective.CHECKPOINT_INTERVAL
TRAINING, REST = "training", "Optuna and the rest"
STAGES: tuple[tuple[str, Any, str], ...] = (
    ("proposals and checker", FeasibleSampler, "sample_relative"),
    ("building", Trainer, "training"),
    (TRAINING, Training, "run_epoch"),
    ("checkpoints", search.workers.objective, "save_checkpoint"),
    ("note and data of pictures", annotation, "annotate"),
    ("database, writing", StudyStorage, "_write"),
    ("database, writing", StudyStorage, "_create_new_trial"),
    ("database, writing", StudyStorage, "set_trial_state_values"),
    ("database, reading", StudyStorage, "_get_trials"),
    ("database, reading", StudyStorage, "get_trial"),
    ("database, reading", StudyStorage, "get_study_system_attrs"),
    ("database, reading", StudyStorage, "recover"),
)
SHOWN = (*dict.fromkeys(name for name, _, _ in STAGES if name != TRAINING), REST)


class Stopwatch:
    """Tells the time of each stage without that of the stages within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stages = [REST]
        self._since = time.perf_counter()

    def turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self._stages[-1]] += now - self._since
        self._since = now

    def wrap(self, stage: str, owner: Any, name: str) -> None:
        method: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self._stages.append(stage)
            try:
                return method(*args, **kwargs)
            finally:
                self.turn()
                self._stages.pop()

        setattr(owner, name, timed)


def configuration(name: str) -> StudyConfig:
    few = ["data.kind=digits", "augmentation.epochs=1", "study.target=1.0", "study.pruner=none"]
    return load(STUDY, [f"study.name={name}", "study.trials=1000000", *few])


def few_images(config: StudyConfig) -> datasets.Dataset:
    whole = datasets.load(config.data)
    first = np.arange(IMAGES)
    return dataclasses.replace(
        whole, train=whole.train.take(first), validation=whole.validation.take(first)
    )


def prepare(
    folder: Path, size: int, store: FileSystemArtifactStore
) -> tuple[optuna.Study, Objective]:
    """A study of `size` trials with notes, and the objective of one more."""
    config = configuration(f"of-{size}")
    dataset = few_images(config)
    url = f"sqlite:///{folder}/{size}.db"
    study = create_or_resume(config, url)
    study.sampler = make_sampler(config, dataset.input, len(dataset.classes))
    study.pruner = make_pruner(config)

    def finished(trial: Finished) -> None:
        annotation.annotate(trial, config, dataset, store)  # looked up, so that it is timed

    trainer = Trainer(config, dataset, torch.device("cpu"), cache=folder)
    objective = Objective(config, trainer, runs=folder, finished=finished)
    study.optimize(objective, n_trials=2)
    grow(url, config.study.name, size)
    add_notes(study, config)
    return study, objective


def add_notes(study: optuna.Study, config: StudyConfig) -> None:
    """Gives the trials that were copied the notes that they would have."""
    trials = study.get_trials(deepcopy=False)
    architecture = Architecture.from_json(trials[0].user_attrs["architecture"])
    note = trial_note(architecture, config.rules)
    with study_storage(study).together():
        for trial in trials[: annotation.NOTED]:
            annotation.write_note(study, trial._trial_id, note)


def measure(
    study: optuna.Study, objective: Objective, watch: Stopwatch, trials: int
) -> dict[str, list[float]]:
    """Seconds of each stage, of all of them, and of the processor, in each of `trials`."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(1 + trials):
        search.workers.objective.CHECKPOINT_INTERVAL = INTERVAL * watch.seconds[TRAINING] / TRIAL
        watch.turn()
        watch.seconds.clear()
        study.optimize(objective, n_trials=1)
        watch.turn()
        for stage in SHOWN:
            found[stage].append(watch.seconds[stage])
        found["sum"].append(sum(watch.seconds[stage] for stage in SHOWN))
    # The first trial reads the whole study, and tells how long a training takes.
    return {stage: seconds[1:] for stage, seconds in found.items()}


def aside(study: optuna.Study, store: FileSystemArtifactStore) -> dict[str, float]:
    """Processor seconds of what `launch` and `dashboard` do in processes of their own."""
    trial = study.get_trials(deepcopy=False)[-1]
    pictures = [meta.artifact_id for meta in get_all_artifact_meta(trial, storage=study._storage)]

    def look() -> None:
        for artifact in pictures:
            Gallery(store).open_reader(artifact).close()

    steps: dict[str, Callable[[], Any]] = {
        "reading the study once more, for the live view": lambda: summarize(study),
        "note and plots of the study, in a twentieth of the time at most": lambda: refresh.refresh(
            study, summarize(study)
        ),
        "the pictures of one trial, when somebody looks": look,
    }
    summarize(study)
    return {name: processor(step) for name, step in steps.items()}


def processor(step: Callable[[], Any]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def spread(seconds: Sequence[float]) -> str:
    low, high = 1000 * min(seconds), 1000 * max(seconds)
    return f"{1000 * statistics.median(seconds):.1f} ({low:.1f}–{high:.1f})"


def table(columns: Mapping[int, Mapping[str, Any]], title: str, word: Callable[[Any], str]) -> None:
    print(f"\n| {title} | " + " | ".join(f"{size:,} trials" for size in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for row in next(iter(columns.values())):
        print(f"| {row} | " + " | ".join(word(column[row]) for column in columns.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 1_000])
    parser.add_argument("--trials", type=int, default=20)
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    watch = Stopwatch()
    for stage in STAGES:
        watch.wrap(*stage)
    stages, others = {}, {}
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        store = artifact_store(Path(place))
        for size in chosen.sizes:
            study, objective = prepare(Path(place), size, store)
            stages[size] = measure(study, objective, watch, chosen.trials)
            others[size] = aside(study, store)
    epochs = configuration("x").training.epochs
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}; Python "
        f"{platform.python_version()}, Optuna {version('optuna')}, torch {torch.__version__}; "
        f"{epochs} epochs a trial, n = {chosen.trials}"
    )
    table(stages, "ms a trial, median (lowest–highest)", spread)
    for size, found in stages.items():
        share = statistics.median(found["sum"]) / TRIAL
        print(f"\nAt {size:,} trials: {100 * share:.2f} % of a trial of {TRIAL:.0f} seconds.")
    table(others, "beside the trials, ms of the processor", lambda s: f"{1000 * s:.0f}")


if __name__ == "__main__":
    sys.exit(main())
