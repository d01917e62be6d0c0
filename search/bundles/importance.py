"""Which choices mattered over a study, and how sure that is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.storage.given import learnable

LEAST_TRIALS = 10
"""Completed trials below which importances are not worth a look."""
FEW_TRIALS = 20
"""Completed trials below which they are hints."""
SEEDS = 5  # of the evaluator
SHUFFLES = 19  # the largest of them is exceeded once in twenty where nothing matters


@dataclass(frozen=True)
class Importance:
    """The share of the variance of accuracy over completed `trials` that each choice explains.

    `shares` are means over seeds of the evaluator, the largest first, and `spreads` their
    standard deviations.  `chance` is the largest share that any choice gets where accuracies are
    shuffled among the trials: 95 % of studies in which nothing matters stay below it
    (Altmann et al., Bioinformatics 26, 2010, with the maximum over all choices).
    """

    trials: int
    shares: Mapping[str, float]
    spreads: Mapping[str, float]
    chance: float

    @property
    def mattered(self) -> list[str]:
        """The choices that explain more than chance does."""
        return [name for name, share in self.shares.items() if share > self.chance]

    @property
    def few(self) -> bool:
        return self.trials < FEW_TRIALS


def importances(
    study: optuna.Study, seeds: int = SEEDS, shuffles: int = SHUFFLES
) -> Importance | None:
    """Those of the search's trials by functional ANOVA (Hutter et al., ICML 2014); None where
    too few completed to tell, or all alike."""
    trials = [t for t in learnable(study.get_trials(deepcopy=False)) if _completed(t)]
    values = np.array([trial.values[0] for trial in trials])
    if len(trials) < LEAST_TRIALS or np.ptp(values) == 0:
        return None
    found = [_shares(trials, values, seed) for seed in range(seeds)]
    rng = np.random.default_rng(0)
    by_chance = [_shares(trials, rng.permutation(values), seed) for seed in range(shuffles)]
    means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    order = sorted(means, key=lambda name: -means[name])
    return Importance(
        trials=len(trials),
        shares={name: means[name] for name in order},
        spreads={name: float(np.std([each[name] for each in found], ddof=1)) for name in order},
        chance=max(max(each.values(), default=0.0) for each in by_chance),
    )


def _completed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE


def _shares(
    trials: Sequence[FrozenTrial], values: NDArray[np.float64], seed: int
) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # scikit-learn

    study = optuna.create_study(direction="maximize")
    study.add_trials(
        create_trial(params=t.params, distributions=t.distributions, value=float(value))
        for t, value in zip(trials, values, strict=True)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
