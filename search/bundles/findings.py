"""What is known about an exported network: everything that its report says."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from constraints import Verdict
from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.data.datasets import Dataset
from search.data.images import Images
from search.display.figures.style import History
from search.storage.summary import Summary

IMPORTANCE_TRIALS = 10  # completed trials from which importances are worth a look


@dataclass(frozen=True)
class Findings:
    """What is known about an exported network.

    `dataset` is the split that the search saw; `logits` (N, classes) are those of the `test`
    images; `history` and `retraining` are epoch records of the search's trial and of the
    training that gave the weights (empty where the trial's own weights are exported).
    `importance` maps parameters to shares, empty where the trials are too few.
    """

    config: StudyConfig
    number: int
    candidate: Candidate
    verdict: Verdict
    dataset: Dataset
    test: Images
    logits: NDArray[np.float32]
    history: History
    retraining: History
    summary: Summary
    importance: Mapping[str, float]
    metrics: Mapping[str, Any]

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(N,) classes."""
        classes: NDArray[np.int64] = self.logits.argmax(axis=1)
        return classes

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """(classes, classes) test images: rows true, columns predicted."""
        labels = range(len(self.dataset.classes))
        counts: NDArray[np.int64] = confusion_matrix(
            self.test.labels, self.predicted, labels=labels
        )
        return counts

    @cached_property
    def mistakes(self) -> NDArray[np.int64]:
        """Indices of misclassified test images, the most confident mistakes first."""
        wrong = np.flatnonzero(self.predicted != self.test.labels)
        surest: NDArray[np.int64] = wrong[np.argsort(-self.confidence[wrong], kind="stable")]
        return surest

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """(N,) softmax probabilities of the predicted classes."""
        shares: NDArray[np.float64] = softmax(self.logits.astype(np.float64), axis=1).max(axis=1)
        return shares


def importances(study: optuna.Study) -> dict[str, float]:
    """The share of the variance of accuracy that each hyperparameter explains (functional
    ANOVA, Hutter et al., 2014); empty where too few trials completed to tell."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(completed) < IMPORTANCE_TRIALS or len({trial.values[0] for trial in completed}) == 1:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return get_param_importances(
            study,
            evaluator=FanovaImportanceEvaluator(seed=0),
            target=lambda trial: float(trial.values[0]),
        )
