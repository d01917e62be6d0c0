from __future__ import annotations

import pytest
import torch

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
@pytest.mark.parametrize("side", [31, 32])
def test_convolutions_are_those_of_torch(
    groups: int, kernel: int, stride: int, dilation: int, padding: int, side: int
) -> None:
    """As training computes them: autocast, channels_last, memory that is not blank."""
    torch.manual_seed(0)
    layer = Layer(16, 16, kernel, stride, padding, dilation, groups, norm=False)
    quick = _layer(layer)[0].to(memory_format=torch.channels_last)
    plain = torch.nn.Conv2d(16, 16, kernel, stride, padding, dilation, groups, bias=False)
    plain.load_state_dict(quick.state_dict())
    x = torch.randn(20, 16, side, side).bfloat16().to(memory_format=torch.channels_last)
    blocks = [torch.full((3_000,), 1e30) for _ in range(300)]
    del blocks
    with torch.autocast("cpu", torch.bfloat16):
        low = quick(x).float()
    exact = plain(x.float())
    for map in (low, exact):
        map.square().mean().backward()
    torch.testing.assert_close(low, exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(quick.weight.grad, plain.weight.grad, rtol=0.05, atol=2e-3)
