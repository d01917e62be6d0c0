from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import nn
from torch.nn import functional as F

from search.data.datasets import Dataset
from search.data.images import Images
from search.data.normalization import Normalization
from search.training.evaluation import evaluate

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


def test_evaluation_counts_one_view_of_each_image(digits: Dataset) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3 * 32 * 32, 10))
    normalization = Normalization(digits.mean, digits.std)
    result = evaluate(network, digits.validation, normalization, torch.device("cpu"))
    pixels = digits.validation.pixels.astype(np.float64) / 255
    x = ((pixels - digits.mean) / digits.std).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = network.eval()(torch.tensor(x, dtype=torch.float32))
    labels = torch.from_numpy(digits.validation.labels)
    assert np.allclose(result.logits, logits.numpy(), atol=1e-4)
    assert result.accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert result.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("images", "shape", "batches"),
    [
        (1_500, (8, 8, 1), [1_000, 500]),
        (60, (224, 224, 3), [27, 27, 6]),
        (2, (2_000, 1_000, 3), [1, 1]),
    ],
)
def test_large_images_are_evaluated_a_few_at_a_time(
    images: int, shape: tuple[int, int, int], batches: list[int]
) -> None:
    torch.manual_seed(0)
    seen: list[int] = []
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[2], 2))
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    pixels = np.random.default_rng(0).integers(0, 256, (images, *shape), np.uint8)
    colors = (0.5,) * shape[2]
    found = evaluate(
        network,
        Images(pixels, np.arange(images) % 2),
        Normalization(colors, colors),
        torch.device("cpu"),
    )
    assert seen == batches
    assert found.logits.shape == (images, 2)
