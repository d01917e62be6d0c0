from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search.data.normalization import Normalization
from search.networks.module import build
from search.training.initialization import pass_on, whiten
from space import SearchSpace

NORMALIZATION = Normalization((0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Smooth images: neighbours are alike, as in photographs."""
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 3, 16, 16)))
    smooth = F.avg_pool2d(noise, 3, 1, 1) * 120 + 128
    return smooth.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def test_dense_convolutions_begin_by_passing_their_input_on() -> None:
    wide, narrow = nn.Conv2d(4, 6, 3, padding=2, dilation=2, bias=False), nn.Conv2d(6, 2, 5)
    others = nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 1)
    rest = wide.weight[4:].detach().clone()
    before = [other.weight.detach().clone() for other in others]
    pass_on(nn.Sequential(wide, narrow, *others))
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(wide(x)[:, :4], x)
    assert torch.equal(wide.weight[4:], rest)
    assert narrow.weight.sum() == 2
    assert all(torch.equal(o.weight, w) for o, w in zip(others, before, strict=True))
    assert wide.weight.requires_grad


@pytest.mark.parametrize(("kernel", "dilation", "out"), [(3, 1, 24), (3, 2, 16), (1, 1, 6)])
def test_responses_are_uncorrelated_and_of_variance_one(
    kernel: int, dilation: int, out: int, pixels: np.ndarray
) -> None:
    network = nn.Sequential(nn.Conv2d(3, out, kernel, dilation=dilation, bias=False))
    whiten(network, pixels, NORMALIZATION)
    x = NORMALIZATION(torch.from_numpy(pixels), torch.float32)
    responses = network(x).detach().transpose(0, 1).flatten(1)
    assert torch.equal(responses[out // 2 :], -responses[: out // 2])
    covariance = responses[: out // 2].cov()
    assert torch.allclose(covariance, torch.eye(out // 2), atol=0.1)


def test_whitened_filters_are_not_trained(pixels: np.ndarray) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    whiten(network, pixels, NORMALIZATION)
    assert not network[0].weight.requires_grad
    assert network[0].bias.requires_grad
    assert network[1].weight.requires_grad


def test_filters_beyond_the_components_stay(pixels: np.ndarray) -> None:
    network = nn.Sequential(nn.Conv2d(3, 10, 1))
    before = network[0].weight.detach().clone()
    whiten(network, pixels, NORMALIZATION)  # a patch of one pixel has three components
    assert torch.equal(network[0].weight[6:], before[6:])


def test_a_component_of_gray_images_that_is_rounding_takes_no_filter(pixels: np.ndarray) -> None:
    """Three equal channels have one component in a patch of one pixel, and two of nothing."""
    network = nn.Sequential(nn.Conv2d(3, 10, 1))
    before = network[0].weight.detach().clone()
    whiten(network, pixels[..., :1].repeat(3, axis=-1), NORMALIZATION)
    assert torch.equal(network[0].weight[2:], before[2:])
    assert network[0].weight.abs().max() < 10


def test_a_convolution_in_groups_is_left_alone(pixels: np.ndarray) -> None:
    network = nn.Sequential(nn.Conv2d(3, 9, 3, groups=3))
    before = network[0].weight.detach().clone()
    whiten(network, pixels, NORMALIZATION)
    assert torch.equal(network[0].weight, before)
    assert network[0].weight.requires_grad


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 8), ((1, 17), 1)])
def test_a_convolution_wider_than_the_images_is_left_alone(
    kernel: int | tuple[int, int], dilation: int, pixels: np.ndarray
) -> None:
    """It reads mostly padding; the images hold no patch of 17 pixels."""
    network = nn.Sequential(nn.Conv2d(3, 8, kernel, padding=8, dilation=dilation))
    before = network[0].weight.detach().clone()
    whiten(network, pixels, NORMALIZATION)
    assert torch.equal(network[0].weight, before)
    assert network[0].weight.requires_grad


def test_the_single_filter_of_a_separable_layer_on_gray_images_is_trained(
    pixels: np.ndarray,
) -> None:
    """Components take two filters each: frozen, it would stay as it was drawn."""
    choices = {"C1": {"operator": "separable"}}
    network = build(SearchSpace.model_validate(choices).architecture({}, input=(1, 16, 16)))
    whiten(network, pixels[..., :1], Normalization((0.5,), (0.25,)))
    first = next(part for part in network.modules() if isinstance(part, nn.Conv2d))
    assert (first.in_channels, first.out_channels, first.kernel_size) == (1, 1, (3, 3))
    assert first.weight.requires_grad


def test_a_filter_of_one_gray_pixel_takes_that_pixel(pixels: np.ndarray) -> None:
    network, gray = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False)), pixels[..., :1]
    whiten(network, gray, Normalization((0.5,), (0.25,)))
    x = Normalization((0.5,), (0.25,))(torch.from_numpy(gray), torch.float32)
    assert network(x)[:, 0].var().item() == pytest.approx(1, rel=0.05)
