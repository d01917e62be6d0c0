"""What is known about an exported network: everything that its report says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn

from constraints import Verdict
from search.bundles.importance import Importance
from search.bundles.metrics import Metrics
from search.bundles.rival import Rivals
from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.data.datasets import Dataset
from search.data.images import Images
from search.display.figures.style import History
from search.networks.architecture import Architecture
from search.storage.summary import Summary


@dataclass(frozen=True)
class Findings:
    """What is known about an exported network.

    `network` has the exported weights; `dataset` is the split that the search saw; `logits`
    (N, classes) are those of the `test` images; `history` and `retraining` are epoch records of
    the search's trial and of the training that gave the weights (empty where the trial's own
    weights are exported).
    `rivals` sets it beside the best other trial, `importance` says which choices mattered; each
    is None where there are too few trials for it.  `int8` are its files for microcontrollers, by
    name.
    """

    config: StudyConfig
    number: int
    candidate: Candidate
    verdict: Verdict
    network: nn.Module
    dataset: Dataset
    test: Images
    logits: NDArray[np.float32]
    history: History
    retraining: History
    summary: Summary
    rivals: Rivals | None
    importance: Importance | None
    metrics: Metrics
    int8: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def architecture(self) -> Architecture:
        """The network, which is no module."""
        network = self.candidate.architecture
        assert isinstance(network, Architecture)
        return network

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(N,) classes."""
        classes: NDArray[np.int64] = self.logits.argmax(axis=1)
        return classes

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """(classes, classes) test images: rows true, columns predicted."""
        from sklearn.metrics import confusion_matrix  # a second, which `verify` need not wait for

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
