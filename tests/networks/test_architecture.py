from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.networks.architecture import MOST_LAYERS, Architecture, ArchitectureError, Layer, Unit
from space import SearchSpace
from tests.conftest import STUDIES, WIDE_SPACE, candidates

SPACE = SearchSpace.model_validate(WIDE_SPACE)


@given(st.integers(0, 2**32))
def test_json_brings_back_the_same_architecture(seed: int) -> None:
    architecture = SPACE.architecture(SPACE.sample(random.Random(seed)))
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert again == architecture
    assert again.hash == architecture.hash


def test_distinct_candidates_have_distinct_hashes() -> None:
    found = set(candidates(500))
    assert len({architecture.hash for architecture in found}) == len(found) > 400


def test_the_name_is_no_part_of_the_network() -> None:
    architecture = next(candidates(1))
    named = dataclasses.replace(architecture, name="best")
    assert named == architecture
    assert named.hash == architecture.hash


def _broken(change: dict[str, object]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((STUDIES / "baseline.json").read_text())
    layer = content["blocks"][0]["units"][0]["layers"][0]
    layer.update(change)
    return content


def test_layers_without_end_are_no_network() -> None:
    content = _broken({})
    units = content["blocks"][0]["units"]
    layers = units[0]["layers"]
    layers[1:1] = [{**layers[0], "in_channels": layers[0]["out_channels"]}] * MOST_LAYERS
    with pytest.raises(ArchitectureError, match=r"^blocks: 4,1\d\d layers, but at most 4,096$"):
        Architecture.from_json(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": 0}, "kernel.*greater than or equal to 1.*got 0"),
        ({"kernel": 99}, "kernel.*less than or equal to 31"),
        ({"stride": 0}, "stride"),
        ({"padding": -1}, "padding"),
        ({"padding": 10**6}, "padding"),
        ({"dilation": 0}, "dilation"),
        ({"out_channels": 3.5}, "out_channels"),
        ({"out_channels": 10**9}, "out_channels"),
        ({"groups": 5}, "groups must divide"),
        ({"kernal": 3}, "kernal"),
        ({"activation": "tanh"}, "activation"),
        ({"out_channels": 48}, "gives 48 channels but the next reads 32"),
        ({"in_channels": 1}, "must read the 3 channels of the input"),
    ],
)
def test_json_that_means_no_network_is_refused_by_key(
    change: dict[str, object], words: str
) -> None:
    with pytest.raises(ArchitectureError, match=words):
        Architecture.from_json(_broken(change))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        *((kind, "must be a JSON object") for kind in (None, [], "C1")),
        ({}, "no version is given"),
        ({"version": 2}, "must be 1, but got 2: another release"),
    ],
)
def test_json_of_another_kind_is_refused(content: object, words: str) -> None:
    with pytest.raises(ArchitectureError, match=words):
        Architecture.from_json(content)


def test_a_shortcut_needs_equal_shapes() -> None:
    with pytest.raises(ArchitectureError, match="residual unit must keep"):
        Unit((Layer(8, 16, padding=1),), residual=True)
    with pytest.raises(ArchitectureError, match="residual unit must keep"):
        Unit((Layer(8, 8, padding=0),), residual=True)
