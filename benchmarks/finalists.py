"""Whether the winner of finalists is as certain, and as good, as is said.

    python -m benchmarks.finalists [TABLE] [--studies N] [--trainings N] [--arms NAME…]

Simulates whole studies in the worlds of `benchmarks.search`, then trains their finalists by the
code that users run, and compares what is claimed with the worlds' truth.  TABLE is a landscape;
without it, the committed one.  Nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial
from scipy.stats import binomtest

from benchmarks.search.__main__ import TABLE, landscape_of
from benchmarks.search.arms import ARMS, DEFAULT, RANDOM, Arm
from benchmarks.search.document import interval
from benchmarks.search.simulation import begun, described, search
from benchmarks.search.surrogate import Family
from benchmarks.search.world import World
from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.storage.finalists import Standing, fresh_candidate, standing, template
from search.storage.ranking import CERTAIN
from search.storage.trials import candidate_of

SHOWN = (RANDOM, DEFAULT)


@dataclass(frozen=True)
class Outcome:
    """What one study claims of its leader, and the truth.

    `claimed` is the probability that it is the best finalist and `right` whether it is.  Of the
    accuracies less the true ones, `reported` is that of the leader's mean, `averaged` that of
    the plain average of its trainings, and `once` that of the best trial as the search measured
    it, once.  `regret` is what a better finalist would have gained.
    """

    claimed: float
    right: bool
    trainings: int
    reported: float
    averaged: float
    once: float
    regret: float


def outcome(arm: Arm, world: World, seed: int, trainings: float) -> Outcome | None:
    """That of the study of `arm` in `world` after as much as so many mean trainings cost; None
    where all finalists are lost."""
    config = arm.config(seed)
    study = begun(arm, seed)
    search(study, arm, world, config, trainings)
    now = _finals(study, config, world)
    true = {each.trial: _true(study.trials[each.trial], world) for each in now.finalists}
    leader, best = now.leader, now.finalists[0]
    if leader is None or leader.mean is None:
        return None
    truth = true[leader.trial]
    return Outcome(
        claimed=leader.probability or 0.0,
        right=truth == max(true[each.trial] for each in now.racing),
        trainings=now.begun,
        reported=leader.mean - truth,
        averaged=float(np.mean(leader.measures)) - truth,
        once=best.once - true[best.trial],
        regret=max(true.values()) - truth,
    )


def _finals(study: optuna.Study, config: StudyConfig, world: World) -> Standing:
    """As workers do it."""
    study.sampler = RandomSampler()  # is not asked: a finalist's training has its parameters
    while (now := standing(study.trials, config)).next is not None:
        study.add_trial(template(study.trials, now))
        trial = study.ask()
        candidate = fresh_candidate(trial, config)
        assert candidate is not None
        described(trial, candidate)
        source = study.trials[now.next]
        study.tell(trial, world.curve(_true(source, world), candidate)[-1])
    return now


def _true(trial: FrozenTrial, world: World) -> float:
    return world.accuracy(trial.params, candidate_of(trial))


# ------------------------------------------------------------------------------ table


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Claims beside the truth; shares with the interval of Clopper and Pearson, means with that
    of the bootstrap, all of 95 %."""
    titles = (
        "search", "studies", "decided", "claimed then, %", "right then, %", "claimed, all, %",
        "right, all, %", "trainings", "mean less truth, points", "its plain average less truth",
        "maximum of single measures less truth", "lost to a better finalist",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    return "\n".join(lines + [_line(name, found) for name, found in outcomes.items()])


def _line(name: str, found: Sequence[Outcome]) -> str:
    decided = [each for each in found if each.claimed >= CERTAIN]
    columns = [[getattr(each, key) for each in found] for key in ("reported", "averaged", "once")]
    cells = [
        name,
        str(len(found)),
        str(len(decided)),
        *_claims(decided),
        *_claims(found),
        f"{np.mean([each.trainings for each in found]):.1f}",
        *map(_points, columns),
        f"{100 * np.mean([each.regret for each in found]):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _claims(found: Sequence[Outcome]) -> tuple[str, str]:
    """The mean claim, and how many were right."""
    if not found:
        return "–", "–"
    right = sum(each.right for each in found)
    low, high = binomtest(right, len(found)).proportion_ci()
    share = f"{100 * right / len(found):.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * np.mean([each.claimed for each in found]):.1f}", share


def _points(values: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in interval(np.array(values), np.mean))
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 2 for a table that nothing can be simulated on."""
    parser = argparse.ArgumentParser("benchmarks.finalists", description=__doc__)
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    parser.add_argument("--studies", type=int, default=200, help="of each arm")
    parser.add_argument("--trainings", type=float, default=30, help="PFLOP of so many mean ones")
    parser.add_argument("--surrogate", choices=get_args(Family), default="process")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=SHOWN, metavar="NAME")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        landscape = landscape_of(options.table, options.surrogate)
    except ConfigError as error:
        print(f"finalists: {error}", file=sys.stderr)
        return 2
    worlds = [World(landscape, seed) for seed in range(options.studies)]
    found = {name: _outcomes(ARMS[name], worlds, options.trainings) for name in options.arms}
    print(table(found))
    return 0


def _outcomes(arm: Arm, worlds: Sequence[World], trainings: float) -> list[Outcome]:
    every = (outcome(arm, world, seed, trainings) for seed, world in enumerate(worlds))
    return [each for each in every if each is not None]


if __name__ == "__main__":
    sys.exit(main())
