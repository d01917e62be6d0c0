"""Real studies of the same seed and the same cost.

    python -m benchmarks.search.real IMAGES FOLDER [--arms NAME…] [--seeds N…] [--tflop N]

Networks of `studies/wide.toml`, trained as the landscape's are in short on the imagefolder IMAGES.
Each of the arms (legal random and the default) gets so many TFLOP (25, some twenty trainings of
legal random).  What each study would export is trained again with three more seeds, since the
best of many noisy accuracies is partly luck.  FOLDER keeps the studies: a stopped run goes on, and
several processes may share it, each with seeds or arms of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import statistics
from pathlib import Path

import optuna

from benchmarks.landscape import recipes
from benchmarks.search.arms import ARMS, DEFAULT, RANDOM
from search.data.datasets import Dataset
from search.proposals.sampler import make_sampler
from search.storage.studies import create_or_resume
from search.storage.trials import Attributes, candidate_of
from search.training.devices import choose_device
from search.training.trainer import Trainer
from search.workers.objective import Objective, make_pruner

AGAIN = (1, 2, 3)


class Real:
    """The study of an arm with a seed, in `folder`, which trains on `dataset`."""

    def __init__(self, name: str, seed: int, folder: Path, dataset: Dataset) -> None:
        self.name, self.seed = name, seed
        called = "-".join(re.findall(r"\w+", f"{name} {seed}".lower()))
        config = ARMS[name].config(seed)
        section = config.study.model_copy(update={"name": called})
        config = config.model_copy(update={"study": section})
        self.study = create_or_resume(config, f"sqlite:///{folder}/real.db")
        self.study.sampler = make_sampler(config, dataset.input, len(dataset.classes))
        self.study.pruner = make_pruner(config)
        cpu, cache = choose_device("cpu"), folder / "augmented"
        self.trainer = Trainer(config, dataset, cpu, cache=cache)
        self.objective = Objective(config, self.trainer, runs=folder / "runs" / called)

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return [
            trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()
        ]

    @property
    def pflop(self) -> float:
        return sum(Attributes.of(trial).pflop or 0.0 for trial in self.trials)

    def train(self) -> None:
        """One more trial."""
        self.study.optimize(self.objective, n_trials=1)

    def again(self) -> list[float]:
        """What the best trial's network reaches from other seeds."""
        best = candidate_of(self.study.best_trial)
        found: list[float] = self.study.user_attrs.get("again", [])
        for repeat in AGAIN[len(found) :]:
            recipe = dataclasses.replace(best.recipe, repeat=repeat)
            training = self.trainer.training(dataclasses.replace(best, recipe=recipe))
            while training.epoch < recipe.epochs:
                accuracy = training.run_epoch().accuracy
            found = [*found, accuracy]
            self.study.set_user_attr("again", found)
        return found


def trained(arm: str, seed: int, tflop: float, folder: Path, dataset: Dataset) -> Real:
    """The study of an arm that has cost so much."""
    real = Real(arm, seed, folder, dataset)
    while 1e3 * real.pflop < tflop:
        real.train()
    return real


def row(real: Real) -> str:
    """A line of the table."""
    states = [trial.state.name for trial in real.trials]
    again = real.again()
    mean, error = statistics.mean(again), statistics.stdev(again) / len(again) ** 0.5
    cells = (
        real.seed,
        real.name,
        f"{len(states)}, {states.count('PRUNED')}",
        f"{1e3 * real.pflop:.2f}",
        f"{real.study.best_value:.2%}",
        f"{mean:.2%} ± {error:.2%}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.search.real", description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    both = [RANDOM, DEFAULT]
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=both, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tflop", type=float, default=25.0)
    options = parser.parse_args()
    for name in ("optuna", "search"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options.folder.mkdir(parents=True, exist_ok=True)
    dataset = recipes.Trainer(options.images, "cpu", options.folder / "augmented").dataset("short")
    print("| seed | search | trials, pruned | TFLOP | best, as measured once | again, 3 seeds |")
    print("|---|---|---|---|---|---|", flush=True)
    for seed in options.seeds:
        for arm in options.arms:
            real = trained(arm, seed, options.tflop, options.folder, dataset)
            print(row(real), flush=True)


if __name__ == "__main__":
    main()
