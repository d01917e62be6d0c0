"""Who competes: each arm a study file's settings, a sampler, and how a trial gets its candidate.

What ships runs as it ships.  The classics that it is held against make their proposals inside
the same sampler, so that they too train legal networks alone; plain Optuna learns what is legal
from the trials that it spends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from benchmarks.landscape.recipes import CLASSES, INPUT, study
from search.analysis.facts import count_macs
from search.config.sections import StudyConfig, StudySection
from search.proposals.filling import Choices
from search.proposals.judged import JudgedProposals
from search.proposals.parameters import open_distributions, suggest
from search.proposals.proposer import Proposal, Proposer
from search.proposals.sampler import FeasibleSampler, make_sampler


def suggested(trial: optuna.Trial, config: StudyConfig) -> Choices:
    """As the objective of a study gets them."""
    suggest(trial, config, input=INPUT, classes=CLASSES)
    return trial.params


@dataclass(frozen=True)
class Arm:
    """`share` of the studies asked for are run, where a proposal costs seconds."""

    sampler: str = "random"
    pruner: str = "none"
    make: Callable[[StudyConfig], BaseSampler] | None = None
    choices: Callable[[optuna.Trial, StudyConfig], Choices] = suggested
    share: float = 1.0

    def config(self, seed: int) -> StudyConfig:
        """The wide study with this arm's search."""
        told = study("short")
        changes = {"sampler": self.sampler, "pruner": self.pruner, "seed": seed}
        section = StudySection.model_validate({**told.study.model_dump(), **changes})
        return told.model_copy(update={"study": section})

    def built(self, config: StudyConfig) -> BaseSampler:
        return self.make(config) if self.make else make_sampler(config, INPUT, CLASSES)


class _Classic(BaseSampler):
    """Proposes survivors by a rule of its own."""

    def __init__(self, seed: int, draws: JudgedProposals) -> None:
        self._rng = random.Random(seed)
        self._draws = draws

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, domain: Any) -> Any:
        raise RuntimeError(f"{name} is proposed with all others")

    def _child(self, parent: Mapping[str, Any]) -> Choices:
        while True:
            child = self._draws.neighbor(parent)
            if child is not None:
                return child


class MostMacs(_Classic):
    """Of many uniform survivors the one with the most multiply-adds."""

    _DRAWN = 10

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> Choices:
        drawn = [self._draws.uniform() for _ in range(self._DRAWN)]
        return max(drawn, key=lambda each: count_macs(self._draws.candidate(each).architecture))


class Evolution(_Classic):
    """Regularized evolution (Real et al., arXiv:1802.01548): the best of some of the youngest
    is mutated, and the oldest die."""

    _POPULATION = 20
    _TOURNAMENT = 5

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> Choices:
        done = _completed(study)
        if len(done) < self._POPULATION:
            return self._draws.uniform()
        rivals = self._rng.sample(done[-self._POPULATION :], self._TOURNAMENT)
        return self._child(max(rivals, key=_value).params)


def _completed(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _value(trial: FrozenTrial) -> float:
    return cast(float, trial.value)


def _classic(kind: type[_Classic]) -> Callable[[StudyConfig], BaseSampler]:
    def make(config: StudyConfig) -> BaseSampler:
        proposer = Proposer(config, INPUT, CLASSES)
        return FeasibleSampler(proposer, lambda seeds, draws: kind(seeds.trial, draws))

    return make


def or_prune(trial: optuna.Trial, config: StudyConfig) -> Choices:
    """Whatever the sampler proposes, filled as ours is, since the landscape holds no others; an
    illegal network is pruned."""
    proposal = _drawn(trial, config)
    if not proposal.accepted:
        raise optuna.TrialPruned
    return proposal.choices


def or_constrain(trial: optuna.Trial, config: StudyConfig) -> Choices:
    """The same, and each rule is a constraint."""
    proposal = _drawn(trial, config)
    excess = {broken.rule: broken.excess for broken in proposal.violations}
    for rule in (*config.limits, "fill"):
        trial.set_constraint(rule, excess.get(rule, 0.0))
    if excess:
        raise optuna.TrialPruned
    return proposal.choices


def _drawn(trial: optuna.Trial, config: StudyConfig) -> Proposal:
    values = {
        name: trial._suggest(name, domain) for name, domain in open_distributions(config).items()
    }
    return Proposer(config, INPUT, CLASSES).judge(values)


def _plain(config: StudyConfig) -> BaseSampler:
    return TPESampler(seed=config.study.seed)


_SHIPPED = StudySection(name="shipped")
DEFAULT = f"{_SHIPPED.sampler}, {_SHIPPED.pruner}"
"""What a study file gets that names neither sampler nor pruner."""

RANDOM = "legal random"

ARMS: dict[str, Arm] = {
    RANDOM: Arm(),
    "most MACs first": Arm(make=_classic(MostMacs)),
    "regularized evolution": Arm(make=_classic(Evolution)),
    "plain TPE, prune": Arm(make=_plain, choices=or_prune),
    "plain TPE, constraint + prune": Arm(make=_plain, choices=or_constrain),
    "random, asha": Arm("random", "asha"),
    "qmc, none": Arm("qmc"),
    "nsga2, none": Arm("nsga2"),
    "cmaes, none": Arm("cmaes", share=0.1),
    "gp, none": Arm("gp", share=0.1),
    "tpe, none": Arm("tpe"),
    "tpe, asha": Arm("tpe", "asha"),
    "tpe, median": Arm("tpe", "median"),
    "tpe, hyperband": Arm("tpe", "hyperband"),
}
