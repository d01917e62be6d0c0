"""The table against torch: counts, sizes, gradients, and the module traced."""

from __future__ import annotations

import pytest
from torch import nn

from search.analysis.table import analyze
from search.analysis.tracing.trace import trace
from search.networks.architecture import Architecture
from search.networks.module import SqueezeExcite, build
from tests import oracle
from tests.conftest import VARIED_SPACE, candidates


@pytest.mark.parametrize("network", [*candidates(12, 11), *candidates(8, 11, VARIED_SPACE)])
def test_counts_and_sizes_equal_torch(network: Architecture) -> None:
    module, found = build(network), analyze(network)
    assert found.parameters == oracle.parameters(module)
    assert found.macs == oracle.macs(module, network.input)
    rows = [row.n_out for row in found.layers if row.name.startswith("CONV")]
    maps = [size for size in oracle.shapes(module, network.input) if size != (1, 1)]
    assert maps == rows


@pytest.mark.parametrize("network", [*candidates(12, 12), *candidates(4, 15, VARIED_SPACE)])
def test_receptive_field_equals_the_gradient_on_both_axes(network: Architecture) -> None:
    found = analyze(network)
    (span,) = set(found.receptive_field)
    assert span is not None
    side = span + 64
    maps = nn.Sequential(*(getattr(build(network), block) for block in ("C1", "C2", "C3", "C4")))
    for parent in list(maps.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SqueezeExcite):
                setattr(parent, name, nn.Identity())
    maps = oracle.linearize(maps)
    for axis, shape in enumerate([(3, side, 8), (3, 8, side)]):
        spans, seen = oracle.support(maps, shape, reach=0)
        assert spans[axis] == span
        assert seen[axis] == found.pixels_seen[axis]


@pytest.mark.parametrize("network", [*candidates(8, 13), *candidates(6, 13, VARIED_SPACE)])
def test_tracing_the_built_module_gives_the_same(network: Architecture) -> None:
    given_, traced = analyze(network), analyze(trace(build(network), network.input))
    for name in ("receptive_field", "jump", "center", "pixels_seen", "parameters", "macs"):
        assert getattr(traced, name) == getattr(given_, name)
    assert traced.activation_bytes == given_.activation_bytes
    assert traced.feature_map == given_.feature_map
    for name in ("separable", "dilated", "depth", "output_cells"):
        assert getattr(traced.structure, name) == getattr(given_.structure, name)
    if not given_.structure.missing:  # a graph has no blocks to miss a transition in
        assert traced.structure == given_.structure
