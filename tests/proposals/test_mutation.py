"""Mutations of a given network."""

from __future__ import annotations

import random

import pytest

from constraints import violations
from search.config.files import load, overridden
from search.proposals.mutation import MUTATIONS, mutations
from search.proposals.proposer import Proposer
from tests.conftest import STUDIES
from tests.synthetic_study import CLASSES, INPUT, feasible

QUICK = load(STUDIES / "quickstart.toml")


@pytest.mark.parametrize("seed", range(5))
def test_mutations_are_legal_and_near(seed: int) -> None:
    config = overridden(QUICK, ["space.fill="])
    start = feasible(config, seed)
    found = mutations(start, Proposer(config, INPUT, CLASSES), random.Random(seed))
    assert len(found) == MUTATIONS
    networks = {config.candidate(c, input=INPUT, classes=CLASSES).architecture for c in found}
    own = config.candidate(start, input=INPUT, classes=CLASSES).architecture
    assert len(networks | {own}) == MUTATIONS + 1
    for choices in found:
        assert 1 <= sum(choices[name] != start[name] for name in start) <= 3
    assert not any(violations(network, config.rules) for network in networks)


def test_a_space_of_one_network_has_none() -> None:
    start = feasible(QUICK, 0)
    pinned = overridden(QUICK, ["space.fill=", *(f"space.{k}={v}" for k, v in _told(start))])
    space = pinned.space.parameters
    assert not space
    assert mutations({}, Proposer(pinned, INPUT, CLASSES), random.Random(0)) == []


def _told(choices: dict[str, object]) -> list[tuple[str, object]]:
    names = QUICK.space.parameters
    return [
        (k, str(v).lower() if isinstance(v, bool) else v) for k, v in choices.items() if k in names
    ]
