"""Optuna's pruners, comparing only with what the study's own trials bear out."""

from __future__ import annotations

from typing import cast

from optuna.pruners import MedianPruner, SuccessiveHalvingPruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.storage.refuted import BorneOut


class Median(MedianPruner):
    """The median rule (Golovin et al., doi:10.1145/3097983.3098043)."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return super().prune(cast(Study, BorneOut(study)), trial)


class Halving(SuccessiveHalvingPruner):
    """Asynchronous successive halving (Li et al., arXiv:1810.05934)."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return super().prune(cast(Study, BorneOut(study)), trial)
