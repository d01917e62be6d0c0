"""How many trials train a legal network: the feasible sampler against plain Optuna.

    python -m benchmarks.sampling                   legality and overhead (minutes)
    python -m benchmarks.sampling --long            cost in a study of 10,000 trials
    python -m benchmarks.sampling --train IMAGES    accuracy at equal training epochs

Plain Optuna is written the three ways that people use: an illegal network raises (FAIL),
prunes, or sets constraints and prunes.  All four use TPE with the same settings.  IMAGES
is an imagefolder: IMAGES/train/<class>/*.  Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import create_trial

from constraints import violations
from search.analysis.facts import count_macs, count_parameters
from search.config.candidate import Candidate
from search.config.files import parse
from search.config.sections import StudyConfig
from search.proposals.parameters import distributions, suggest
from search.proposals.proposer import estimate
from search.proposals.sampler import make_sampler

INPUT, CLASSES = (3, 32, 32), 10
SLOTS = 150
LONG = 10_000
KINDS = ("tpe", "gp", "nsga2", "cmaes", "random", "qmc")

# About 3 % of it is legal: a network must be small and cheap, and yet see far.
LIMITS = {
    "receptive_field": 100,
    "parameters": 50_000,
    "macs": 5_000_000,
    "depthwise_separable": 2,
}
SPACE = {
    "block": {
        "depth": {"low": 1, "high": 4},
        "width": {"low": 8, "high": 72, "step": 8},
        "operator": ["dense", "separable", "inverted"],
        "dilation": [1, 2],
        "residual": True,
    }
}
TRAINING = {
    "epochs": 2,
    "batch_size": 100,
    "learning_rate": 0.1,
    "matrix_learning_rate": 0.05,
    "warmup": 0.2,
}


def tight(seed: int, sampler: str = "tpe") -> StudyConfig:
    """The study of this benchmark."""
    study = {"name": "tight", "sampler": sampler, "pruner": "none", "seed": seed}
    return parse(
        {"study": study, "limits": LIMITS, "space": SPACE, "training": TRAINING}, "benchmark"
    )


def proxy(candidate: Candidate) -> float:
    """Stands for accuracy where nothing is trained: it grows with computation and size, so
    that good networks lie at the limits, as real ones do."""
    network = candidate.architecture
    return math.log(count_macs(network)) + 0.5 * math.log(count_parameters(network))


# ------------------------------------------------------------------------- strategies


class IllegalNetworkError(Exception):
    """A plain trial whose network breaks a rule."""


@dataclass(frozen=True)
class Strategy:
    """A way to search: its sampler, and how its objective gets a candidate."""

    name: str
    sampler: Callable[[StudyConfig], BaseSampler]
    candidate: Callable[[optuna.Trial, StudyConfig], Candidate]


def plain_tpe(config: StudyConfig) -> BaseSampler:
    return TPESampler(seed=config.study.seed, multivariate=True, constant_liar=True)


def feasible(config: StudyConfig) -> BaseSampler:
    return make_sampler(config, INPUT, CLASSES)


def suggested(trial: optuna.Trial, config: StudyConfig) -> Candidate:
    return suggest(trial, config, input=INPUT, classes=CLASSES)


def drawn(trial: optuna.Trial, config: StudyConfig) -> Candidate:
    """Whatever the sampler proposes, legal or not."""
    choices: dict[str, Any] = {}
    for name, domain in distributions(config).items():
        if isinstance(domain, optuna.distributions.CategoricalDistribution):
            choices[name] = trial.suggest_categorical(name, domain.choices)
        else:
            choices[name] = trial.suggest_int(name, domain.low, domain.high, step=domain.step)
    return config.candidate(choices, input=INPUT, classes=CLASSES)


def or_fail(trial: optuna.Trial, config: StudyConfig) -> Candidate:
    candidate = drawn(trial, config)
    if violations(candidate.architecture, config.rules):
        raise IllegalNetworkError
    return candidate


def or_prune(trial: optuna.Trial, config: StudyConfig) -> Candidate:
    candidate = drawn(trial, config)
    if violations(candidate.architecture, config.rules):
        raise optuna.TrialPruned
    return candidate


def or_constrain(trial: optuna.Trial, config: StudyConfig) -> Candidate:
    candidate = drawn(trial, config)
    excess = {b.rule: b.excess for b in violations(candidate.architecture, config.rules)}
    for rule in config.rules.to_mapping():
        trial.set_constraint(rule, excess.get(rule, 0.0))
    if excess:
        raise optuna.TrialPruned
    return candidate


STRATEGIES = (
    Strategy("plain, FAIL", plain_tpe, or_fail),
    Strategy("plain, prune", plain_tpe, or_prune),
    Strategy("plain, constraint + prune", plain_tpe, or_constrain),
    Strategy("feasible sampler", feasible, suggested),
)


@dataclass
class Run:
    """A study's trial slots in order: which were legal, and what they were worth.

    `proposing` are seconds of CPU, which other work on the machine does not lengthen.
    """

    legal: list[bool] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    proposing: float = 0.0
    proposals: int = 0

    def share(self, start: int = 0) -> float:
        return statistics.mean(self.legal[start:])


def run(
    strategy: Strategy,
    config: StudyConfig,
    score: Callable[[Candidate], float],
    *,
    slots: int,
    trained: int,
) -> Run:
    """Trials until `slots` are used or `trained` networks were scored."""
    study = optuna.create_study(direction="maximize", sampler=strategy.sampler(config))
    result = Run()

    def objective(trial: optuna.Trial) -> float:
        start = time.process_time()
        result.legal.append(False)
        try:
            candidate = strategy.candidate(trial, config)
        finally:
            result.proposing += time.process_time() - start
        # Also the sampler's survivors are judged once more here.
        if violations(candidate.architecture, config.rules):
            raise AssertionError("an illegal network was about to be trained")
        result.legal[-1] = True
        value = score(candidate)
        result.values.append(value)
        if len(result.values) >= trained:
            study.stop()
        return value

    study.optimize(objective, n_trials=slots, catch=IllegalNetworkError)
    result.proposals = sum(trial.user_attrs.get("proposals", 1) for trial in study.trials)
    return result


# ----------------------------------------------------------------------------- tables


def spread(values: list[float], digits: int = 1, unit: str = "") -> str:
    """Mean, and lowest to highest; a study without a legal network has no values."""
    values = [value for value in values if not math.isnan(value)]
    mean, low, high = statistics.mean(values), min(values), max(values)
    return f"{mean:.{digits}f}{unit} ({low:.{digits}f}–{high:.{digits}f})"


def machine() -> str:
    cpu = next(_cpu_names(), platform.machine())
    packages = ", ".join(f"{name} {version(name)}" for name in ("optuna", "numpy", "torch"))
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}"


def _cpu_names() -> Iterator[str]:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                yield line.partition(":")[2].strip()


def print_legality(seeds: int) -> None:
    tally = estimate(tight(0), INPUT, CLASSES, 20_000, random.Random(0))
    print(f"\n{machine()}")
    print(f"\nFeasible at random: {tally.share:.2%} of {tally.proposed:,}; {SLOTS} slots, ", end="")
    print(f"{seeds} seeds, mean (lowest–highest).\n")
    print("| strategy | legal slots | legal, 76–150 | best proxy | CPU ms/slot | CPU ms/proposal |")
    print("|---|---|---|---|---|---|")
    for strategy in STRATEGIES:
        runs = [
            run(strategy, tight(seed), proxy, slots=SLOTS, trained=SLOTS) for seed in range(seeds)
        ]
        cells = (
            spread([100 * r.share() for r in runs], 1, " %"),
            spread([100 * r.share(SLOTS // 2) for r in runs], 1, " %"),
            spread([max(r.values, default=math.nan) for r in runs], 2),
            spread([1000 * r.proposing / len(r.legal) for r in runs], 1),
            spread([1000 * r.proposing / r.proposals for r in runs], 2),
        )
        print(f"| {strategy.name} | {' | '.join(cells)} |", flush=True)


def print_long(repeats: int = 10) -> None:
    print(f"\n{machine()}")
    print(f"\nCPU ms from `ask` to an accepted candidate, {repeats} trials each, in memory.\n")
    print(f"| sampler | empty study | {LONG:,} trials |\n|---|---|---|")
    for kind in KINDS:
        config = tight(0, kind)
        cells = []
        for stored in (0, LONG):
            study = optuna.create_study(direction="maximize", sampler=feasible(config))
            _store(study, config, stored)
            cells.append(spread([_milliseconds(study, config) for _ in range(repeats)], 0))
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def _store(study: optuna.Study, config: StudyConfig, count: int) -> None:
    rng, space = random.Random(0), distributions(config)
    for number in range(count):
        trial = create_trial(
            params={name: domain.sample(rng) for name, domain in config.parameters.items()},
            distributions=space,
            value=rng.random(),
            user_attrs={"candidate": str(number)},
        )
        # Study.add_trial counts all trials each time.
        study._storage.create_new_trial(study._study_id, template_trial=trial)


def _milliseconds(study: optuna.Study, config: StudyConfig) -> float:
    start = time.process_time()
    trial = study.ask()
    suggested(trial, config)
    elapsed = 1000 * (time.process_time() - start)
    study.tell(trial, random.Random(trial.number).random())
    return elapsed


# --------------------------------------------------------------------------- training


def print_training(root: Path, seeds: int, trained: int, images: int, slots: int) -> None:
    """Best validation accuracy where every strategy spends the same training epochs."""
    with tempfile.TemporaryDirectory() as folder:
        score = trainer(root, images, Path(folder))
        epochs = TRAINING["epochs"]
        print(f"\n{machine()}")
        print(
            f"\n{trained} trainings of {epochs} epochs on {images:,} images of {root.name}, ",
            end="",
        )
        print(f"1,000 for validation, {seeds} seeds; at most {slots} slots.\n")
        print("| strategy | slots used | trained | epochs | best accuracy | median accuracy |")
        print("|---|---|---|---|---|---|")
        for strategy in STRATEGIES:
            runs = [
                run(strategy, tight(seed), score, slots=slots, trained=trained)
                for seed in range(seeds)
            ]
            cells = (
                spread([len(r.legal) for r in runs], 0),
                spread([len(r.values) for r in runs], 0),
                spread([epochs * len(r.values) for r in runs], 0),
                spread([100 * max(r.values, default=math.nan) for r in runs], 2, " %"),
                spread([100 * statistics.median(r.values or [math.nan]) for r in runs], 2, " %"),
            )
            print(f"| {strategy.name} | {' | '.join(cells)} |", flush=True)


def trainer(root: Path, images: int, cache: Path) -> Callable[[Candidate], float]:
    """Trains a candidate on a stratified subset; answers with its validation accuracy."""
    import numpy as np
    import torch

    from search.config.sections import AugmentationSection, DataSection
    from search.data.augmentation import AugmentedEpochs
    from search.data.datasets import load
    from search.data.epochs import DeviceEpochs
    from search.data.normalization import Normalization
    from search.networks.module import build
    from search.training.devices import choose_device, choose_dtype
    from search.training.training import DivergedError, Training

    torch.set_num_threads(1)
    whole = load(DataSection(kind="imagefolder", root=root))
    total = len(whole.train) + len(whole.validation)
    held = load(DataSection(kind="imagefolder", root=root, validation=(images + 1_000) / total))
    rng = random.Random(0)
    order = rng.sample(range(len(held.validation)), len(held.validation))
    train = held.validation.take(np.array(order[1_000:]))
    dataset = replace(held, train=train, validation=held.validation.take(np.array(order[:1_000])))
    device = choose_device("auto")
    epochs = AugmentedEpochs(
        AugmentationSection(epochs=int(TRAINING["epochs"])),
        dataset.train.pixels,
        dataset.fingerprint,
        dataset.mean,
        cache,
    )

    def accuracy(candidate: Candidate) -> float:
        torch.manual_seed(0)
        training = Training(
            build(candidate.architecture),
            candidate.recipe,
            DeviceEpochs(epochs, device),
            dataset.train.labels,
            Normalization(dataset.mean, dataset.std),
            validation=dataset.validation,
            device=device,
            dtype=choose_dtype(device, "auto"),
            seed=0,
        )
        try:
            for _ in range(candidate.recipe.epochs):
                training.run_epoch()
        except DivergedError:
            return 1 / CLASSES
        return training.history[-1].accuracy

    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description="the feasible sampler against plain Optuna")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--long", action="store_true", help=f"cost at {LONG:,} trials")
    parser.add_argument("--train", type=Path, metavar="IMAGES", help="an imagefolder")
    parser.add_argument("--trained", type=int, default=20, help="trainings per study")
    parser.add_argument("--images", type=int, default=4_000, help="training images")
    parser.add_argument("--slots", type=int, default=600, help="most trials of a study")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.train:
        print_training(options.train, options.seeds, options.trained, options.images, options.slots)
    elif options.long:
        print_long()
    else:
        print_legality(options.seeds)


if __name__ == "__main__":
    main()
