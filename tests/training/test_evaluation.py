from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from search.data.images import Images
from search.data.normalization import Normalization
from search.training.evaluation import evaluate
from search.training.training import _class_weights

LABELS = np.repeat([0, 1, 3], [80, 15, 5])  # of class 2 there is none


def test_accuracies_are_those_of_scikit_learn() -> None:
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 3), np.uint8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    found = evaluate(
        network, Images(pixels, LABELS), Normalization((0.5,) * 3, (0.25,) * 3), torch.device("cpu")
    )
    predicted = found.logits.argmax(1)
    assert found.accuracy == pytest.approx(accuracy_score(LABELS, predicted))
    other = np.where(LABELS == 0, 1, 0)  # scikit-learn warns of classes that are only guessed
    known = np.where(np.isin(predicted, LABELS), predicted, other)
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(LABELS, known))
    assert found.balanced_accuracy != pytest.approx(found.accuracy, rel=0.01)


def test_weights_are_the_balanced_ones_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert _class_weights(labels).numpy() == pytest.approx(expected)
