from __future__ import annotations

import pytest
import torch

from constraints import analyze
from search.network import build
from tests.conftest import candidates


@pytest.mark.parametrize("architecture", list(candidates(25, seed=3)))
def test_what_is_checked_is_what_is_built(architecture) -> None:  # type: ignore[no-untyped-def]
    network = build(architecture).eval()
    assert sum(p.numel() for p in network.parameters()) == analyze(architecture).parameters
    with torch.no_grad():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_children_carry_the_names_of_the_blocks() -> None:
    network = build(next(candidates(1)))
    assert [name for name, _ in network.named_children()] == ["C1", "C2", "C3", "C4", "O"]
