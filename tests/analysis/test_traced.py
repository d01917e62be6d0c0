"""A module's network as data: both ways, and what names it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from torch import nn

from search.analysis.facts import macs_at
from search.analysis.table import analyze
from search.analysis.traced import TracedModule, module_of, network_of
from search.analysis.tracing.trace import trace
from search.networks.architecture import ArchitectureError
from search.networks.glance import glance
from tests.conftest import candidates

MODULE = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.MaxPool2d(2),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
)  # fmt: skip
INPUT = (1, 12, 10)
NETWORK = TracedModule(
    "/home/me/mine.py:network", "ab" * 32, INPUT, 10, analyze(trace(MODULE, INPUT)), ((8, 8, 77),)
)


def test_it_comes_back_from_json_whole() -> None:
    again = network_of(json.loads(json.dumps(NETWORK.to_json())))
    assert again == NETWORK
    assert analyze(again) == analyze(trace(MODULE, INPUT))
    assert analyze(again).parameters == sum(p.numel() for p in MODULE.parameters())
    (architecture,) = candidates(1)
    assert network_of(architecture.to_json()) == architecture


def test_what_it_computes_at_smaller_sizes_is_as_it_was_traced() -> None:
    assert macs_at(NETWORK, (12, 10)) == analyze(trace(MODULE, INPUT)).macs
    assert macs_at(NETWORK, (8, 8)) == 77
    (architecture,) = candidates(1)
    small = dataclasses.replace(architecture, input=(3, 24, 16))
    assert macs_at(architecture, (24, 16)) == analyze(small).macs


def test_its_name_is_that_of_the_code_wherever_it_lies() -> None:
    moved = dataclasses.replace(NETWORK, module="C:\\there\\mine.py:network")
    assert (moved.hash, moved.key, moved.name) == (NETWORK.hash, NETWORK.key, "mine.py:network")
    assert NETWORK.key == f"network:{'ab' * 32}"
    assert (module_of(NETWORK), module_of(*candidates(1))) == (NETWORK, None)
    others = (
        dataclasses.replace(NETWORK, sha256="cd" * 32),
        dataclasses.replace(NETWORK, module="mine.py:other"),
        dataclasses.replace(NETWORK, outputs=11),
        dataclasses.replace(NETWORK, input=(1, 12, 12)),
    )
    assert len({NETWORK.hash, *(other.hash for other in others)}) == 5
    assert glance(NETWORK) == "mine.py:network  2 of 4 layers are convolutions"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version must be 1"),
        ("sha256", "no", "sha256: String should match"),
        ("outputs", 1, "outputs: Input should be greater"),
        ("analysis", {"parameters": "many"}, "analysis.receptive_field: Field required"),
        ("more", 1, "more: Unexpected"),
    ],
)
def test_what_is_none_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        network_of({**NETWORK.to_json(), key: value})
