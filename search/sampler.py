"""An Optuna sampler that proposes until the checker accepts.

Plain Optuna learns that a network breaks a rule by spending a trial on it.  Here the
inner sampler proposes whole candidates, the checker judges them, and the study sees the
survivors alone: every trial, from the first on, trains a legal network.

How each inner sampler proposes again without spending its cost again:

- random and start-up trials draw uniformly, which is uniform over what is feasible;
- qmc and grid walk on along their sequence;
- tpe fits once, then draws from its density of good trials until enough survivors stand
  to be compared, which is TPE with both densities restricted to what is feasible;
- gp fits once, then maximizes its acquisition function over survivors;
- nsga2 and cmaes draw again, a bounded number of times.

Where the bound is reached the last proposal is mended: mutated towards fewer and smaller
violations.  So a sampler that insists on a rejected point cannot hold the search up.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.config import Candidate, ConfigError, StudyConfig
from search.draws import Draws
from search.inner_samplers import (
    Distributions,
    ExhaustedError,
    FeasibleGP,
    FeasibleGrid,
    FeasibleQMC,
    FeasibleTPE,
    ReplayedCMAES,
)
from search.proposals import (
    Acceptance,
    Choices,
    InfeasibleError,
    Input,
    Proposal,
    Proposer,
    estimate,
    propose,
)
from space import Choice, Domain, IntRange, Scalar


class RejectedError(ValueError):
    """A queued trial asks for a candidate that breaks a rule."""


# -------------------------------------------------------------------------- the space


def distributions(config: StudyConfig) -> Distributions:
    """The flat, fixed search space of a study as Optuna's distributions."""
    return {name: _distribution(domain) for name, domain in config.parameters.items()}


def _free(config: StudyConfig) -> Distributions:
    """Those that leave a choice."""
    return {k: v for k, v in distributions(config).items() if not v.single()}


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, IntRange):
        return IntDistribution(domain.low, domain.high, step=domain.step)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def suggest(trial: optuna.Trial, config: StudyConfig, *, input: Input, classes: int) -> Candidate:
    """The candidate of a trial: every parameter suggested, every rule kept.

    Queued trials reach this without the sampler, and are taken as they are: one proposal.

    Raises:
        RejectedError: the trial was queued with values that break a rule.
        InfeasibleError: the sampler found no candidate.
    """
    if not _free(config):
        # Optuna asks the sampler only where there is a choice; ours also rejects duplicates.
        _ = trial.relative_params
    choices = {name: _suggest(trial, name, domain) for name, domain in config.parameters.items()}
    for name, domain in config.parameters.items():
        if choices[name] not in domain:
            raise RejectedError(f"{name}={choices[name]!r} is not in the search space")
    proposer = Proposer(config, input, classes)
    proposal = proposer.judge(choices, fill=False)
    if not proposal.accepted:
        raise RejectedError("; ".join(broken.message for broken in proposal.violations))
    candidate = proposer.candidate(choices)
    if "candidate" not in trial.user_attrs:
        trial.set_user_attr("candidate", candidate.hash)
        trial.set_user_attr("proposals", 1)
    return candidate


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Scalar:
    if isinstance(domain, Choice):
        return cast(Scalar, trial.suggest_categorical(name, domain.values))
    if isinstance(domain, IntRange):
        return trial.suggest_int(name, domain.low, domain.high, step=domain.step)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)


# ------------------------------------------------------------------------ the sampler


class Seeds(NamedTuple):
    """The seed that all trials of a study share, and the one of this trial."""

    study: int
    trial: int


class FeasibleSampler(BaseSampler):
    """Hands Optuna only candidates that keep every rule and repeat no earlier trial.

    `build` makes the inner sampler of one trial from its seeds and its `Draws`; it may
    propose `patience` times in a row before its last proposal is mended.  All draws
    follow from the study's seed and the trial's number, so workers differ, and a resumed
    study goes on as if it had never stopped: there is nothing to reseed.

    Each trial gets the user attributes `candidate` (its hash, which claims it),
    `proposals`, how many of them were `accepted`, and `rejected` (counts by rule).
    """

    def __init__(
        self,
        proposer: Proposer,
        build: Callable[[Seeds, Draws], BaseSampler],
        patience: float = math.inf,
    ) -> None:
        self._proposer = proposer
        self._build = build
        self._patience = patience
        self._space = distributions(proposer.config)
        self._inner_space = _free(proposer.config)
        self._taken = _Taken()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> Choices:
        """One accepted candidate.

        Raises:
            InfeasibleError: as many proposals in a row were rejected as `study.proposals`
                allows.
        """
        config = self._proposer.config
        rng = random.Random(f"{config.study.seed} {trial.number}")
        fixed = trial.system_attrs.get("fixed_params", {})
        self._taken.update(study, trial)
        draws = Draws(self._proposer, rng, fixed, self._taken.holds)
        inner = self._build(Seeds(config.study.seed, rng.getrandbits(31)), draws)
        scratch = _Scratch(study, trial)
        while True:
            choices = self._survivor(inner, scratch, draws)
            if self._claim(study, trial, draws.candidate(choices)):
                break
            draws.reject_duplicate(choices)
        scratch.write()
        self._set_attribute(study, trial, "proposals", draws.tally.proposed)
        self._set_attribute(study, trial, "accepted", draws.tally.accepted)
        self._set_attribute(study, trial, "rejected", dict(draws.tally.rejected))
        return choices

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise RuntimeError(
            f"parameter {param_name} is none of this study's: "
            "a value drawn after the check could break a rule"
        )

    def _survivor(self, inner: BaseSampler, scratch: _Scratch, draws: Draws) -> Choices:
        calls = 0
        while calls < self._patience:
            calls += 1
            partial = inner.sample_relative(
                cast(Study, scratch), scratch.trial, dict(self._inner_space)
            )
            if not partial:
                return draws.uniform()
            survivor = draws.complete(partial)
            if survivor is not None:
                return survivor
        return draws.mend(partial)

    def _claim(self, study: Study, trial: FrozenTrial, candidate: Candidate) -> bool:
        """Writes the claim, then looks who else holds it: two workers that draw the same
        candidate at the same moment see each other, and both draw again."""
        self._set_attribute(study, trial, "candidate", candidate.hash)
        self._taken.update(study, trial)
        return not self._taken.holds(candidate.hash)

    @staticmethod
    def _set_attribute(study: Study, trial: FrozenTrial, key: str, value: Any) -> None:
        study._storage.set_trial_user_attr(trial._trial_id, key, value)
        trial.user_attrs[key] = value  # optuna.Trial reads this copy, not the storage


class _Taken:
    """The candidates that a study's other trials hold; failed trials hold none.

    Finished trials are read once, so the cost does not grow with the study.
    """

    def __init__(self) -> None:
        self._study: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._finished: set[str] = set()
        self._running: dict[int, str] = {}
        self._open: set[int] = set()
        self._next = 0

    def update(self, study: Study, current: FrozenTrial) -> None:
        if study._study_id != self._study:
            self._study = study._study_id
            self._reset()
        # From the storage, since a pruner may show the sampler a part of the trials only.
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        self._open.update(range(self._next, len(trials)))
        self._next = len(trials)
        self._running = {}
        for number in sorted(self._open):
            self._read(trials[number], current)

    def _read(self, trial: FrozenTrial, current: FrozenTrial) -> None:
        held = trial.user_attrs.get("candidate")
        if trial.state.is_finished():
            self._open.discard(trial.number)
            if held and trial.state is not TrialState.FAIL:
                self._finished.add(held)
        elif held and trial.number != current.number:
            self._running[trial.number] = held

    def holds(self, candidate: str) -> bool:
        return candidate in self._finished or candidate in self._running.values()


class _Scratch:
    """A study as the inner sampler sees it: reads go through, writes wait.

    Samplers note things in the storage whenever they propose.  Those of a rejected
    proposal must not stay, and would cost a transaction each.
    """

    def __init__(self, study: Study, trial: FrozenTrial) -> None:
        self._study = study
        self._storage = _ScratchStorage(study, trial)
        self.trial = self._storage.trial

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def write(self) -> None:
        self._storage.write()


class _ScratchStorage:
    def __init__(self, study: Study, trial: FrozenTrial) -> None:
        self._study = study
        self._storage = study._storage
        self._of_study: dict[str, Any] | None = None
        self._pending_study: dict[str, Any] = {}
        self._pending_trial: dict[str, Any] = {}
        # Samplers look at what they noted before, so notes show on this copy at once.
        self.trial = copy.copy(trial)
        self.trial.system_attrs = dict(trial.system_attrs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        if self._of_study is None:
            self._of_study = dict(self._storage.get_study_system_attrs(study_id))
        return self._of_study

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.get_study_system_attrs(study_id)[key] = value
        self._pending_study[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.trial.system_attrs[key] = value
        self._pending_trial[key] = value

    def write(self) -> None:
        for key, value in self._pending_study.items():
            self._storage.set_study_system_attr(self._study._study_id, key, value)
        for key, value in self._pending_trial.items():
            self._storage.set_trial_system_attr(self.trial._trial_id, key, value)


# ------------------------------------------------------------------------- all kinds


@dataclass(frozen=True)
class _Kind:
    """How to build an inner sampler, and how often it may propose in a row."""

    build: Callable[[Seeds, Draws], BaseSampler]
    patience: float = math.inf


_KINDS: dict[str, _Kind] = {
    "random": _Kind(lambda seeds, draws: RandomSampler(seed=seeds.trial)),
    "qmc": _Kind(lambda seeds, draws: FeasibleQMC(seeds.study)),
    "grid": _Kind(lambda seeds, draws: FeasibleGrid(seeds.study, draws)),
    "tpe": _Kind(lambda seeds, draws: FeasibleTPE(seeds.trial, draws), patience=1),
    "gp": _Kind(lambda seeds, draws: FeasibleGP(seeds.trial, draws), patience=1),
    "nsga2": _Kind(lambda seeds, draws: NSGAIISampler(seed=seeds.trial), patience=200),
    "cmaes": _Kind(lambda seeds, draws: ReplayedCMAES(seeds.trial), patience=10),
}


def make_sampler(config: StudyConfig, input: Input, classes: int) -> FeasibleSampler:
    """The sampler that `study.sampler` names.

    Raises:
        ConfigError: that sampler cannot search this space, or lacks a package.
    """
    _require_usable(config)
    kind = _KINDS[config.study.sampler]
    return FeasibleSampler(Proposer(config, input, classes), kind.build, kind.patience)


def _require_usable(config: StudyConfig) -> None:
    name = config.study.sampler
    space = _free(config)
    if name == "grid":
        real = [k for k, v in space.items() if isinstance(v, FloatDistribution)]
        if real:
            raise ConfigError(
                f"study.sampler: grid needs lists or ranges of whole numbers, "
                f"but {', '.join(real)} is a range of real numbers"
            )
    if name == "cmaes":
        if importlib.util.find_spec("cmaes") is None:
            raise ConfigError("study.sampler: cmaes needs a package: pip install cmaes")
        if len(config.study.objectives) > 1:
            raise ConfigError("study.sampler: cmaes takes one objective; use nsga2, tpe or gp")
        if sum(not isinstance(v, CategoricalDistribution) for v in space.values()) < 2:
            raise ConfigError("study.sampler: cmaes needs at least two ranges; lists do not count")


__all__ = [
    "Acceptance",
    "ExhaustedError",
    "FeasibleSampler",
    "InfeasibleError",
    "Proposal",
    "RejectedError",
    "distributions",
    "estimate",
    "make_sampler",
    "propose",
    "suggest",
]
