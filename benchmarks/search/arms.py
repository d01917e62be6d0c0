"""Who competes: each arm a study file's settings, a sampler, and how a trial gets its candidate.

What ships runs as it ships.  The classics that it is held against make their proposals inside
the same sampler, so that they too train legal networks alone; plain Optuna learns what is legal
from the trials that it spends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from benchmarks.landscape.recipes import CLASSES, INPUT, study
from search.analysis.facts import count_macs
from search.config.files import overridden
from search.config.sections import StudyConfig, StudySection
from search.proposals.filling import Choices
from search.proposals.judged import JudgedProposals
from search.proposals.parameters import open_distributions, suggest
from search.proposals.proposer import Proposal, Proposer
from search.proposals.sampler import SAMPLERS, FeasibleSampler, make_sampler


def suggested(trial: optuna.Trial, config: StudyConfig) -> Choices:
    """As the objective of a study gets them."""
    suggest(trial, config, input=INPUT, classes=CLASSES)
    return trial.params


KNOWN = 20  # networks of which somebody knows one


@dataclass(frozen=True)
class Older:
    """A study of the default search from which another one begins, its settings `changes` to the
    wide study.  Where it `misleads`, the worse a network is the better it showed there; `known`
    says whether the newer one can tell, since the images are others."""

    changes: tuple[str, ...] = ()
    misleads: bool = False
    known: bool = False

    @property
    def arm(self) -> Arm:
        return Arm(_SHIPPED.sampler, _SHIPPED.pruner, changes=self.changes)


@dataclass(frozen=True)
class Arm:
    """`share` of the studies asked for are run, where a proposal costs seconds.  `given` is the
    place among `KNOWN` uniform legal networks, from the best, of one that the study begins with."""

    sampler: str = "random"
    pruner: str = "none"
    make: Callable[[StudyConfig], BaseSampler] | None = None
    choices: Callable[[optuna.Trial, StudyConfig], Choices] = suggested
    share: float = 1.0
    changes: tuple[str, ...] = ()
    older: Older | None = None
    given: int | None = None

    def config(self, seed: int) -> StudyConfig:
        """The wide study with this arm's search."""
        own = (f"study.sampler={self.sampler}", f"study.pruner={self.pruner}", f"study.seed={seed}")
        return overridden(study("short"), (*own, *self.changes))

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


class Mutation(_Classic):
    """Local search (White et al., arXiv:2005.02960): the best so far is mutated."""

    _FIRST = 5

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> Choices:
        done = _completed(study)
        if len(done) < self._FIRST:
            return self._draws.uniform()
        return self._child(max(done, key=_value).params)


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

_SHARES = {"cmaes": 0.3}  # a study of it takes longer than all others together


def _ours() -> dict[str, Arm]:
    """Every sampler with every pruner; the grid has none of the wide study's real ranges."""
    pruners = get_args(StudySection.model_fields["pruner"].annotation)
    return {
        f"{sampler}, {pruner}": Arm(sampler, pruner, share=_SHARES.get(sampler, 1.0))
        for sampler in SAMPLERS
        for pruner in pruners
        if sampler != "grid" and (sampler, pruner) != ("random", "none")
    }


def _heir(older: Older | None = None, given: int | None = None) -> Arm:
    return Arm(_SHIPPED.sampler, _SHIPPED.pruner, older=older, given=given)


ARMS: dict[str, Arm] = {
    RANDOM: Arm(),
    **_ours(),
    "most MACs first": Arm(make=_classic(MostMacs)),
    "mutation of the best": Arm(make=_classic(Mutation)),
    "regularized evolution": Arm(make=_classic(Evolution)),
    "plain TPE, prune": Arm(make=_plain, choices=or_prune),
    "plain TPE, constraint + prune": Arm(make=_plain, choices=or_constrain),
    f"{DEFAULT}, from a kin study": _heir(Older(("limits.macs=10_000_000",))),
    f"{DEFAULT}, from a kin study on other images": _heir(Older(known=True)),
    f"{DEFAULT}, from a misleading one on other images": _heir(Older(misleads=True, known=True)),
    f"{DEFAULT}, from one whose numbers are false": _heir(Older(misleads=True)),
    f"{DEFAULT}, from a good network": _heir(given=1),
    f"{DEFAULT}, from a middling network": _heir(given=KNOWN // 2),
}
