from __future__ import annotations

import json

import pytest

from constraints import Limits, violations
from search.analysis.table import analyze
from search.networks.architecture import Architecture, Block, Layer
from search.networks.module import build
from search.proposals.remedy import Remedy, remedy
from tests.conftest import STUDIES
from tests.units import CHOICES, SPACE


def limits(**values: int) -> Limits:
    return Limits.from_mapping(values)


def made(**changes: int) -> Architecture:
    return SPACE.architecture(
        {**CHOICES, **{name.replace("_", "."): value for name, value in changes.items()}}
    )


@pytest.fixture(scope="module")
def baseline() -> Architecture:
    return Architecture.from_json(json.loads((STUDIES / "baseline.json").read_text()))


def test_a_network_beyond_the_generator_has_no_remedy(baseline: Architecture) -> None:
    *blocks, _ = baseline.blocks
    bare = Block("C4", (), (Layer(64, 64, 1),))
    network = Architecture((*blocks, bare), baseline.output)
    assert violations(network, limits(downsampling=3))
    assert remedy(network, limits(downsampling=3)) is None


def test_one_change_satisfies_the_limits() -> None:
    found = remedy(made(), limits(receptive_field=60), SPACE)
    assert isinstance(found, Remedy)
    # C3's second unit adds 2 x 4 pixels, C4's 2 x 8: only C4 reaches 61 by depth alone.
    weights = sum(p.numel() for p in build(found.architecture).parameters())
    assert str(found) == f"C4 depth 1 → 2: RF 61, {weights:,} parameters"
    assert violations(found.architecture, limits(receptive_field=60)) == ()


def test_the_smallest_of_single_changes_is_taken() -> None:
    network = made(C1_width=64)
    found = remedy(network, limits(parameters=analyze(network).parameters), SPACE)
    assert found is not None
    (change,) = found.changes
    assert (change.parameter, change.old, change.new) == ("C1.width", 64, 56)


def test_two_changes_where_one_does_not_do() -> None:
    rules = limits(receptive_field=60, dilated=2)
    found = remedy(made(), rules, SPACE)
    assert found is not None
    assert len(found.changes) == 2
    assert violations(found.architecture, rules) == ()


def test_no_remedy_for_the_legal_the_hopeless_and_the_foreign(baseline: Architecture) -> None:
    assert remedy(made(), limits(receptive_field=44), SPACE) is None
    assert remedy(made(), limits(receptive_field=4_000), SPACE, most=2) is None
    assert remedy(baseline, limits(downsampling=3), SPACE) is None


def test_a_remedy_may_take_a_halving_away() -> None:
    rules = limits(downsampling=2, receptive_field=30)
    found = remedy(made(), rules)
    assert found is not None
    (change,) = found.changes
    assert str(change).endswith(" transition halvings 1 → 0")
    assert violations(found.architecture, rules) == ()
