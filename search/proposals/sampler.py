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
- tpe+gp is the one and the other in turn;
- nsga2 and cmaes draw again, a bounded number of times.

Where the bound is reached the last proposal is mended: mutated towards fewer and smaller
violations.  So a sampler that insists on a rejected point cannot hold the search up.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any, cast

from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.errors import ConfigError, require_known
from search.proposals.alternating import Alternating
from search.proposals.cmaes import ReplayedCMAES
from search.proposals.filling import Choices
from search.proposals.gp import FeasibleGP
from search.proposals.inner import Distributions, Inner, Seeds
from search.proposals.internals import queued_with
from search.proposals.judged import JudgedProposals
from search.proposals.parameters import distributions, open_distributions
from search.proposals.proposer import Input, Proposer
from search.proposals.scratch import Scratch, Taken
from search.proposals.sequences import FeasibleGrid, FeasibleQMC
from search.proposals.tpe import FeasibleTPE
from search.proposals.untaught import NSGA2, Random
from search.storage.trials import Attributes, write_proposed
from search.storage.writes import at_once

_YIELDING = 1.0
"""Seconds after which a later trial that holds the same candidate is taken to train it."""


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
        self._taken.update(study, trial)
        proposals = JudgedProposals(self._proposer, rng, queued_with(trial), self._taken.holds)
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
        """Writes the claim, then looks who else holds it: of two workers that draw the same
        candidate at the same moment, that of the later trial draws again.  The other waits for
        this, so that the last candidate of a space is not given up by both."""
        with at_once(study):
            write_proposed(study, trial, Attributes(candidate=candidate.hash))
        until = time.monotonic() + _YIELDING
        while True:
            self._taken.update(study, trial)
            if not self._taken.holds(candidate.hash):
                return True
            if self._taken.holds(candidate.hash, until=trial.number) or time.monotonic() > until:
                return False
            time.sleep(_YIELDING / 50)


SAMPLERS: dict[str, type[Inner]] = {
    kind.name: kind
    for kind in (
        FeasibleTPE,
        FeasibleGP,
        Alternating,
        NSGA2,
        ReplayedCMAES,
        Random,
        FeasibleQMC,
        FeasibleGrid,
    )
}


def inner_sampler(config: StudyConfig) -> type[Inner]:
    """What `study.sampler` names.

    Raises:
        ConfigError: there is none of that name, or it cannot search this space.
    """
    name = config.study.sampler
    require_known("study.sampler", name, SAMPLERS)
    refusal = SAMPLERS[name].refusal(config.study, open_distributions(config))
    if refusal:
        raise ConfigError(f"study.sampler: {name} {refusal}")
    return SAMPLERS[name]


def make_sampler(config: StudyConfig, input: Input, classes: int) -> FeasibleSampler:
    """The sampler that `study.sampler` names, among legal networks.

    Raises:
        ConfigError: as `inner_sampler` does.
    """
    kind = inner_sampler(config)
    return FeasibleSampler(Proposer(config, input, classes), kind, kind.patience)
