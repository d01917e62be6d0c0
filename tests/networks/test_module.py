from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from search.networks.architecture import Architecture, Layer
from search.networks.module import _layer, build
from tests.conftest import candidates


@pytest.mark.parametrize("architecture", list(candidates(25, seed=3)))
def test_every_network_that_a_space_offers_runs(architecture: Architecture) -> None:
    network = build(architecture).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_children_carry_the_names_of_the_blocks() -> None:
    network = build(next(candidates(1)))
    assert [name for name, _ in network.named_children()] == ["C1", "C2", "C3", "C4", "O"]


@pytest.mark.parametrize(
    ("groups", "kernel", "stride", "dilation", "padding"),
    [
        *((1, 3, 1, 1, 1), (1, 3, 1, 2, 2), (16, 3, 1, 1, 1), (16, 3, 1, 2, 2), (8, 3, 1, 3, 3)),
        *((1, 5, 1, 1, 2), (16, 5, 1, 1, 2), (16, 5, 1, 2, 4), (16, 3, 2, 1, 1), (1, 3, 2, 2, 2)),
        *((16, 3, 2, 2, 2), (16, 3, 2, 4, 4), (16, 3, 4, 2, 2), (16, 3, 2, 2, 0), (16, 3, 2, 2, 1)),
    ],
)
@pytest.mark.parametrize("size", [(31, 31), (32, 32), (9, 6)])
def test_convolutions_are_those_of_torch(
    groups: int, kernel: int, stride: int, dilation: int, padding: int, size: tuple[int, int]
) -> None:
    _compare(Layer(16, 16, kernel, stride, padding, dilation, groups, norm=False), size)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (1, 5), (7, 2)])
def test_convolutions_of_small_maps_are_those_of_torch(
    kernel: int, dilation: int, size: tuple[int, int]
) -> None:
    padding = dilation * (kernel // 2)
    _compare(Layer(16, 16, kernel, 1, padding, dilation, 16, norm=False), size)


def _compare(layer: Layer, size: tuple[int, int]) -> None:
    """As training computes them: autocast, channels_last, memory that is not blank."""
    torch.manual_seed(0)
    quick = _layer(layer)[0].to(memory_format=torch.channels_last)
    weight = quick.weight.detach().clone().requires_grad_()
    x = torch.randn(20, 16, *size).bfloat16().to(memory_format=torch.channels_last)
    quick_x, plain_x = x.clone().requires_grad_(), x.float().requires_grad_()
    blocks = [torch.full((3_000,), 1e30) for _ in range(300)]
    del blocks
    with torch.autocast("cpu", torch.bfloat16):
        low = quick(quick_x).float()
    exact = F.conv2d(
        plain_x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    for map in (low, exact):
        map.square().mean().backward()
    torch.testing.assert_close(low, exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(quick.weight.grad, weight.grad, rtol=0.05, atol=2e-3)
    difference = torch.linalg.vector_norm(quick_x.grad.float() - plain_x.grad)
    assert difference < 0.02 * torch.linalg.vector_norm(plain_x.grad)
