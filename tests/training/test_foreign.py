"""What a recipe does to the layers of a module that somebody else wrote."""

from __future__ import annotations

import copy
import dataclasses
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from search.data.normalization import Normalization
from search.training.foreign import Foreign
from search.training.initialization import pass_on, whiten
from search.training.optimization import Average, Optimization
from search.training.training import Training
from tests.conftest import RECIPE

GRAY = Normalization((0.5,), (0.25,))
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)


class Rows(nn.Module):
    """Flattens a map by `view`, which needs it in rows, after a gate and a second branch."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(1, 1, 3)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.gate = nn.Conv2d(4, 4, 1)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x))
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        logits: Tensor = self.head(self.body(x).view(-1, 256))
        return logits


class Convolutional(nn.Module):
    """Ends in a convolution to the classes, on a map."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(nn.Conv2d(1, 6, (3, 5)), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.scale * x)).mean((2, 3))
        return logits


def training_of(network: nn.Module, **changes: object) -> Training:
    return Training(
        network,
        dataclasses.replace(RECIPE, epochs=1, batch_size=16, **changes),
        lambda _: torch.from_numpy(PIXELS),
        np.arange(64) % 10,
        GRAY,
        validation=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
        seed=0,
    )


@pytest.mark.parametrize(("module", "last"), [(Rows(), False), (Convolutional(), True)])
def test_every_weight_that_runs_is_trained_in_either_layout(module: nn.Module, last: bool) -> None:
    network = Foreign(module, (1, 8, 8))
    assert network.takes_channels_last is last
    before = copy.deepcopy(dict(network.named_parameters()))
    training_of(network, average=0.5).run_epoch()
    for name, weight in network.named_parameters():
        assert ("unused" in name) is torch.equal(weight, before[name]), name


def test_the_trunk_is_dense_convolutions_on_maps_but_the_last_layer() -> None:
    rows, other = Foreign(Rows(), (1, 8, 8)), Foreign(Convolutional(), (1, 8, 8))
    assert [id(w) for w in rows.trunk] == [id(rows.module.stem.weight), id(rows.module.body.weight)]
    assert [id(w) for w in other.trunk] == [id(other.module.body[0].weight)]
    copied = copy.deepcopy(other)
    assert [id(w) for w in copied.trunk] == [id(copied.module.body[0].weight)]


def test_muon_steps_alike_in_both_layouts() -> None:
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = []
    for last in (True, False):
        torch.manual_seed(0)
        network = Foreign(Convolutional(), (1, 8, 8))
        assert network.takes_channels_last
        layout = torch.channels_last if last else torch.contiguous_format
        optimization = Optimization(network.to(memory_format=layout), RECIPE)
        for _ in range(3):
            F.cross_entropy(network(images), torch.arange(16) % 10).backward()
            optimization.step(torch.tensor(0.5))
        weights.append(network.trunk[0].detach().contiguous())
    assert torch.allclose(*weights, atol=1e-2)  # Muon computes in bfloat16


def test_only_a_convolution_that_reads_the_image_is_whitened() -> None:
    for module, whitened in (
        (Rows(), "stem"),
        (Convolutional(), "body.0"),
        (Convolutional(scale=2.0), None),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), None),
        (nn.Sequential(nn.Conv2d(1, 10, 8, bias=False), nn.Flatten()), None),  # nothing is left
        (nn.Sequential(weight_norm(nn.Conv2d(1, 10, 8)), nn.Flatten()), None),
        (nn.Sequential(nn.Conv2d(1, 10, 9, padding=1), nn.AvgPool2d(2), nn.Flatten()), None),
    ):
        network = Foreign(module, (1, 8, 8))
        whiten(network, PIXELS, GRAY)
        frozen = [n for n, p in network.module.named_parameters() if not p.requires_grad]
        assert frozen == ([f"{whitened}.weight"] if whitened else [])


def test_filters_that_are_not_square_are_whitened() -> None:
    network = Foreign(Convolutional(), (1, 8, 8))
    whiten(network, PIXELS, GRAY)
    x = GRAY(torch.from_numpy(PIXELS), torch.float32)
    responses = F.conv2d(x, network.first.weight).transpose(0, 1).flatten(1)
    assert torch.allclose(responses[:3].cov(), torch.eye(3), atol=0.1)


def test_a_weight_that_is_made_anew_is_no_identity() -> None:
    layer = weight_norm(nn.Conv2d(2, 2, 3))
    before = layer.weight.detach().clone()
    pass_on(nn.Sequential(layer))
    assert torch.equal(layer.weight, before)


def test_the_average_follows_buffers_that_are_put_anew() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen = self.seen + 1.0
            logits: Tensor = self.head(x.flatten(1)) * random.random()
            return logits

    network = Foreign(Counting(), (1, 8, 8))
    average = Average(network, 1)
    network.train()
    for _ in range(3):
        network(torch.zeros(1, 1, 8, 8))
        average.update()
    assert average.network.module.seen == 3
