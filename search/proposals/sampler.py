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

import importlib.util
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.proposals.cmaes import ReplayedCMAES
from search.proposals.filling import Choices
from search.proposals.gp import FeasibleGP
from search.proposals.inner import Distributions
from search.proposals.judged import JudgedProposals
from search.proposals.parameters import distributions, open_distributions
from search.proposals.proposer import Input, Proposer
from search.proposals.scratch import Scratch, Taken
from search.proposals.sequences import FeasibleGrid, FeasibleQMC
from search.proposals.tpe import FeasibleTPE
from search.storage.trials import Attributes, write_proposed


class Seeds(NamedTuple):
    """The seed that all trials of a study share, and the one of this trial."""

    study: int
    trial: int


class FeasibleSampler(BaseSampler):
    """Hands Optuna only candidates that keep every rule and repeat no earlier trial.

    `build` makes the inner sampler of one trial from its seeds and its `JudgedProposals`; it may
    propose `patience` times in a row before its last proposal is mended.  All draws
    follow from the study's seed and the trial's number, so workers differ, and a resumed
    study goes on as if it had never stopped: there is nothing to reseed.

    Each trial gets the user attributes `candidate` (its hash, which claims it),
    `proposals`, how many of them were `accepted`, and `rejected` (counts by rule).
    """

    def __init__(
        self,
        proposer: Proposer,
        build: Callable[[Seeds, JudgedProposals], BaseSampler],
        patience: float = math.inf,
    ) -> None:
        self._proposer = proposer
        self._build = build
        self._patience = patience
        self._space = distributions(proposer.config)
        self._inner_space = open_distributions(proposer.config)
        self._taken = Taken()

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
        proposals = JudgedProposals(self._proposer, rng, fixed, self._taken.holds)
        inner = self._build(Seeds(config.study.seed, rng.getrandbits(31)), proposals)
        scratch = Scratch(study, trial)
        while True:
            choices = self._survivor(inner, scratch, proposals)
            if self._claim(study, trial, proposals.candidate(choices)):
                break
            proposals.reject_duplicate(choices)
        scratch.write()
        tally = proposals.tally
        outcome = Attributes(
            proposals=tally.proposed, accepted=tally.accepted, rejected=dict(tally.rejected)
        )
        write_proposed(study, trial, outcome)
        return choices

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise RuntimeError(
            f"parameter {param_name} is none of this study's: "
            "a value drawn after the check could break a rule"
        )

    def _survivor(
        self, inner: BaseSampler, scratch: Scratch, proposals: JudgedProposals
    ) -> Choices:
        calls = 0
        while calls < self._patience:
            calls += 1
            partial = inner.sample_relative(
                cast(Study, scratch), scratch.trial, dict(self._inner_space)
            )
            if not partial:
                return proposals.uniform()
            survivor = proposals.complete(partial)
            if survivor is not None:
                return survivor
        return proposals.mend(partial)

    def _claim(self, study: Study, trial: FrozenTrial, candidate: Candidate) -> bool:
        """Writes the claim, then looks who else holds it: two workers that draw the same
        candidate at the same moment see each other, and both draw again."""
        write_proposed(study, trial, Attributes(candidate=candidate.hash))
        self._taken.update(study, trial)
        return not self._taken.holds(candidate.hash)


@dataclass(frozen=True)
class _Kind:
    """How to build an inner sampler, and how often it may propose in a row."""

    build: Callable[[Seeds, JudgedProposals], BaseSampler]
    patience: float = math.inf


_KINDS: dict[str, _Kind] = {
    "random": _Kind(lambda seeds, proposals: RandomSampler(seed=seeds.trial)),
    "qmc": _Kind(lambda seeds, proposals: FeasibleQMC(seeds.study)),
    "grid": _Kind(lambda seeds, proposals: FeasibleGrid(seeds.study, proposals)),
    "tpe": _Kind(lambda seeds, proposals: FeasibleTPE(seeds.trial, proposals), patience=1),
    "gp": _Kind(lambda seeds, proposals: FeasibleGP(seeds.trial, proposals), patience=1),
    "nsga2": _Kind(lambda seeds, proposals: NSGAIISampler(seed=seeds.trial), patience=200),
    "cmaes": _Kind(lambda seeds, proposals: ReplayedCMAES(seeds.trial), patience=10),
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
    space = open_distributions(config)
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
