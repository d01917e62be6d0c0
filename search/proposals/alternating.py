"""Two samplers in turn, each of which learns from the trials of both.

A simple ensemble of optimizers can beat each of them (Liu et al., arXiv:2012.04201); what this one
does is measured in docs/results/search.md.
"""

from __future__ import annotations

from optuna.study import Study
from optuna.trial import FrozenTrial

from search.proposals.filling import Choices
from search.proposals.gp import FeasibleGP
from search.proposals.inner import Distributions, InnerSampler, Seeds
from search.proposals.judged import JudgedProposals
from search.proposals.tpe import FeasibleTPE


class Alternating(InnerSampler):
    """TPE for the trials of even number, a Gaussian process for those of odd number."""

    name = "tpe+gp"
    patience = 1

    def __init__(self, seeds: Seeds, proposals: JudgedProposals) -> None:
        self._kinds = [kind(seeds, proposals) for kind in (FeasibleTPE, FeasibleGP)]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> Choices:
        kind = self._kinds[trial.number % len(self._kinds)]
        return kind.sample_relative(study, trial, search_space)
