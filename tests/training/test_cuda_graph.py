from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

from search.config.sections import AugmentationSection
from search.data.augmentation import AugmentedEpochs
from search.data.datasets import Dataset
from search.data.epochs import DeviceEpochs
from search.data.normalization import Normalization
from search.networks.architecture import Architecture
from search.networks.module import build
from search.training.cuda_graph import WARM_UP, Captured
from search.training.training import Training
from tests.training.test_training import RECIPE, SPACE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_a_replay_computes_what_the_function_does() -> None:
    total = torch.zeros(4, device="cuda")

    def add(x: torch.Tensor) -> torch.Tensor:
        total.add_(x)
        return total * 2

    captured = Captured(add)
    for calls in range(1, WARM_UP + 4):
        result = captured(torch.full((4,), 1.5, device="cuda"))
        assert torch.equal(result, torch.full((4,), 3.0 * calls, device="cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_captured_training_learns_what_an_eager_one_does(
    dtype: torch.dtype, digits: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("augmented")
    section = AugmentationSection(epochs=2, flip_probability=0.0)
    epochs = AugmentedEpochs(section, digits.train.pixels, digits.fingerprint, digits.mean, folder)
    architecture: Architecture = SPACE.architecture({})

    def accuracy(*, eager: bool) -> float:
        torch.manual_seed(0)
        training = Training(
            build(architecture),
            dataclasses.replace(RECIPE, average=0.5),
            DeviceEpochs(epochs, torch.device("cuda")),
            digits.train.labels,
            Normalization(digits.mean, digits.std),
            validation=digits.validation,
            device=torch.device("cuda"),
            dtype=dtype,
            seed=0,
        )
        if eager:
            training._step = lambda size: partial(training._train, size)
        return [training.run_epoch() for _ in range(3)][-1].accuracy

    assert accuracy(eager=False) == pytest.approx(accuracy(eager=True), abs=0.03)
    assert accuracy(eager=False) > 0.6
