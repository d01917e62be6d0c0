from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F

from search.config.sections import AugmentationSection
from search.data.augmentation import AugmentedEpochs
from search.data.datasets import Dataset
from search.data.epochs import DeviceEpochs
from search.data.normalization import Normalization
from search.networks.architecture import Architecture
from search.networks.module import build
from search.training.training import DivergedError, Moment, Training
from space import SearchSpace
from tests.conftest import RECIPE

SPACE = SearchSpace.model_validate(
    {
        "block": {"width": 16, "squeeze_excite": 4, "transition": {"bottleneck": True}},
        "C1": {"width": 8},
        "C2": {"operator": "inverted"},
        "C3": {"residual": True},
        "C4": {"operator": "separable"},
    }
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return SPACE.architecture({})


def _augmented(dataset: Dataset, folder: Path) -> AugmentedEpochs:
    section = AugmentationSection(epochs=2, flip_probability=0.0)
    return AugmentedEpochs(section, dataset.train.pixels, dataset.fingerprint, dataset.mean, folder)


@pytest.fixture(scope="module")
def epochs(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> AugmentedEpochs:
    return _augmented(digits, tmp_path_factory.mktemp("augmented"))


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    """Enough images where nothing need be learned."""
    return dataclasses.replace(digits, train=digits.train.take(np.arange(320)))


@pytest.fixture(scope="module")
def few_epochs(few: Dataset, tmp_path_factory: pytest.TempPathFactory) -> AugmentedEpochs:
    return _augmented(few, tmp_path_factory.mktemp("few"))


def _training(
    architecture: Architecture,
    epochs: AugmentedEpochs,
    digits: Dataset,
    *,
    dtype: torch.dtype = torch.float32,
    **changes: object,
) -> Training:
    torch.manual_seed(0)
    return Training(
        build(architecture),
        dataclasses.replace(RECIPE, **changes),
        DeviceEpochs(epochs, CPU),
        digits.train.labels,
        Normalization(digits.mean, digits.std),
        validation=digits.validation,
        device=CPU,
        dtype=dtype,
        seed=0,
    )


@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_it_learns(
    optimizer: str, architecture: Architecture, epochs: AugmentedEpochs, digits: Dataset
) -> None:
    training = _training(architecture, epochs, digits, optimizer=optimizer)
    before = training.evaluate(digits.validation).accuracy
    records = [training.run_epoch() for _ in range(3)]
    assert before < 0.3
    assert records[-1].accuracy > 0.6
    assert records[-1].train_loss < records[0].train_loss
    assert [r.epoch for r in records] == [1, 2, 3]
    assert records[-1].images == 3 * (len(digits.train) // 32) * 32


def test_an_epoch_says_where_it_is(
    architecture: Architecture, epochs: AugmentedEpochs, digits: Dataset
) -> None:
    training = _training(architecture, epochs, digits)
    moments: list[Moment] = []
    started = time.perf_counter()
    training.run_epoch(lambda: moments.append(training.moment))
    seconds = time.perf_counter() - started
    first, *steps, last = moments
    assert (first.phase, last.phase) == ("augmenting", "evaluating")
    assert {(moment.epoch, moment.phase) for moment in steps} == {(1, "training")}
    count = len(digits.train) // 32
    assert [moment.done for moment in steps] == [(i + 1) / count for i in range(count)]
    assert (steps[-1].images_per_second or 0) >= 32 * count // seconds


def test_every_parameter_is_trained(
    architecture: Architecture, few: Dataset, few_epochs: AugmentedEpochs
) -> None:
    training = _training(architecture, few_epochs, few)
    before = {k: v.clone() for k, v in training.evaluated.named_parameters()}
    training.run_epoch()
    for name, parameter in training.evaluated.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_a_resumed_training_ends_where_an_unbroken_one_does(
    average: float, architecture: Architecture, few: Dataset, few_epochs: AugmentedEpochs
) -> None:
    unbroken = _training(architecture, few_epochs, few, average=average)
    for _ in range(3):
        unbroken.run_epoch()
    first = _training(architecture, few_epochs, few, average=average)
    first.run_epoch()
    state = first.state()
    torch.manual_seed(99)
    second = _training(architecture, few_epochs, few, average=average)
    second.restore(state)
    assert second.epoch == 1
    second.run_epoch()
    second.run_epoch()
    for name, value in unbroken.evaluated.state_dict().items():
        assert torch.equal(value, second.evaluated.state_dict()[name]), name
    assert second.history[-1].accuracy == unbroken.history[-1].accuracy


def test_a_loss_that_is_no_number_ends_the_training(
    architecture: Architecture, few: Dataset, few_epochs: AugmentedEpochs
) -> None:
    training = _training(architecture, few_epochs, few)
    with torch.no_grad():
        next(training.evaluated.parameters()).fill_(math.nan)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with pytest.raises(DivergedError, match="nan in epoch 1"):
        training.run_epoch(count)
    assert steps <= 1


def test_so_does_one_of_the_validation_images(
    architecture: Architecture, few: Dataset, few_epochs: AugmentedEpochs
) -> None:
    training = _training(architecture, few_epochs, few)

    def spoil() -> None:
        if training.moment.phase == "evaluating":
            with torch.no_grad():
                next(training.evaluated.parameters()).fill_(math.inf)

    with pytest.raises(DivergedError, match="validation loss is nan in epoch 1"):
        training.run_epoch(spoil)
    assert training.history == []


def test_on_step_can_stop_it_in_the_middle_of_an_epoch(
    architecture: Architecture, epochs: AugmentedEpochs, digits: Dataset
) -> None:
    training = _training(architecture, epochs, digits)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.run_epoch(stop)
    assert training.epoch == 0


def test_each_class_weighs_what_scikit_learn_calls_balanced() -> None:
    """The loss of the first step is that of torch on scikit-learn's weights."""
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    pixels = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1), np.uint8)
    weights = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    normalization = Normalization((0.5,), (0.25,))
    found = []
    for weighed in (True, False):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        logits = network(normalization(torch.from_numpy(pixels), torch.float32)).detach()
        recipe = dataclasses.replace(RECIPE, batch_size=100, class_weights=weighed)
        training = Training(
            network, recipe, lambda _: torch.from_numpy(pixels), labels, normalization,
            validation=None, device=CPU, dtype=torch.float32, seed=0,
        )  # fmt: skip
        found.append(training.run_epoch().train_loss)
        expected = F.cross_entropy(
            logits,
            torch.from_numpy(labels),
            torch.tensor(weights, dtype=torch.float32) if weighed else None,
            label_smoothing=RECIPE.label_smoothing,
        )
        assert found[-1] == pytest.approx(expected.item(), rel=1e-5)
    assert found[0] != pytest.approx(found[1], rel=0.01)


def test_bfloat16_learns_too(
    architecture: Architecture, epochs: AugmentedEpochs, digits: Dataset
) -> None:
    training = _training(architecture, epochs, digits, dtype=torch.bfloat16)
    for _ in range(3):
        record = training.run_epoch()
    assert record.accuracy > 0.6


@pytest.mark.parametrize(("small_crop", "least"), [(False, 0.5), (True, 0.3)])
def test_it_learns_from_smaller_images_first(
    architecture: Architecture,
    epochs: AugmentedEpochs,
    digits: Dataset,
    small_crop: bool,
    least: float,
) -> None:
    small = {"small_epochs": 0.6, "small_side": 0.5, "small_crop": small_crop}
    training = _training(architecture, epochs, digits, **small)
    seen = []
    training.evaluated.register_forward_pre_hook(
        lambda module, inputs: seen.append((module.training, inputs[0].shape[-1]))
    )
    accuracy = [training.run_epoch().accuracy for _ in range(3)][-1]
    steps = len(digits.train) // 32
    assert [side for train, side in seen if train] == [16] * 2 * steps + [32] * steps
    assert {side for train, side in seen if not train} == {32}
    assert accuracy > least
