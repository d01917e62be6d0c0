from __future__ import annotations

import pytest
import torch

from search.analysis.table import analyze
from search.networks.architecture import Architecture, Layer
from search.networks.module import _layer, build
from tests.conftest import candidates


@pytest.mark.parametrize("architecture", list(candidates(25, seed=3)))
def test_what_is_checked_is_what_is_built(architecture: Architecture) -> None:
    network = build(architecture).eval()
    assert sum(p.numel() for p in network.parameters()) == analyze(architecture).parameters
    with torch.no_grad():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_children_carry_the_names_of_the_blocks() -> None:
    network = build(next(candidates(1)))
    assert [name for name, _ in network.named_children()] == ["C1", "C2", "C3", "C4", "O"]


@pytest.mark.parametrize(
    ("groups", "dilation", "kernel"),
    [(1, 1, 3), (1, 2, 3), (16, 1, 3), (16, 2, 3), (8, 3, 3), (1, 1, 5), (16, 1, 5), (16, 2, 5)],
)
def test_bfloat16_gradients_of_a_convolution_are_those_of_float32(
    groups: int, dilation: int, kernel: int
) -> None:
    """As training computes them: autocast, channels_last, memory that is not blank."""
    torch.manual_seed(0)
    padding = dilation * (kernel // 2)
    layer = Layer(16, 16, kernel, 1, padding, dilation, groups, norm=False)
    convolution = _layer(layer)[0].to(memory_format=torch.channels_last)
    x = torch.randn(20, 16, 32, 32).to(memory_format=torch.channels_last)
    gradients = []
    for enabled in (False, True):
        convolution.zero_grad()
        blocks = [torch.full((3_000,), 1e30) for _ in range(300)]
        del blocks
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = convolution(x.bfloat16() if enabled else x).float().square().mean()
        loss.backward()
        gradients.append(next(convolution.parameters()).grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.05, atol=2e-3)
