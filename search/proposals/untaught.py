"""Optuna's samplers that need no teaching: what they propose is judged as it is."""

from __future__ import annotations

from optuna.samplers import NSGAIISampler, RandomSampler

from search.proposals.inner import Inner, Seeds
from search.proposals.judged import JudgedProposals


class Random(RandomSampler, Inner):
    """Uniform over what is feasible."""

    name = "random"

    def __init__(self, seeds: Seeds, proposals: JudgedProposals) -> None:
        super().__init__(seed=seeds.trial)


class NSGA2(NSGAIISampler, Inner):
    """NSGA-II (Deb et al., doi:10.1109/4235.996017)."""

    name = "nsga2"
    patience = 200

    def __init__(self, seeds: Seeds, proposals: JudgedProposals) -> None:
        super().__init__(seed=seeds.trial)
