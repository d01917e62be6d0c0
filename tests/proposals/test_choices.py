"""A network's choices, read off its layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from search.domains import Scalar
from search.networks.architecture import Architecture, Block
from search.proposals.choices import ForeignError, choices_of, expressed
from search.targets import read_architecture
from space import SearchSpace
from tests.conftest import STUDIES, VARIED_SPACE, WIDE_SPACE, candidates

SPACE = SearchSpace.model_validate(WIDE_SPACE)


@pytest.mark.parametrize("network", list(candidates(40, seed=5)))
def test_choices_mean_the_architecture_they_are_read_off(network: Architecture) -> None:
    choices = choices_of(network, SPACE)
    assert choices is not None
    assert SPACE.architecture(choices) == network
    assert SPACE.architecture(expressed(network, SPACE)) == network


@pytest.mark.parametrize("network", list(candidates(20, seed=6, choices=VARIED_SPACE)))
def test_choices_of_transitions_that_vary_are_read_too(network: Architecture) -> None:
    space = SearchSpace.model_validate(VARIED_SPACE)
    choices = choices_of(network, space)
    assert choices is not None
    assert space.architecture(choices) == network
    assert space.architecture(expressed(network, space)) == network


def test_choices_that_are_expressed_are_in_the_space() -> None:
    for network in candidates(100, seed=7):
        for name, value in expressed(network, SPACE).items():
            assert value in SPACE.parameters[name]


def test_a_network_without_a_transition_is_none_of_the_generator_s() -> None:
    network = made(SPACE)
    first, second, third, fourth = network.blocks
    broken = dataclasses.replace(network, blocks=(first, second, bare(third), fourth))
    assert choices_of(broken) is None


def bare(block: Block) -> Block:
    return dataclasses.replace(block, transition=())


def made(space: SearchSpace, **changes: Scalar) -> Architecture:
    """The network of the first of all choices, less `changes`."""
    first = {name: domain.middle for name, domain in space.parameters.items()}
    return space.architecture({**first, **{k.replace("_", ".", 1): v for k, v in changes.items()}})


@pytest.mark.parametrize(
    ("narrow", "message"),
    [
        ({"C2": {"width": {"low": 24, "high": 40, "step": 8}}},
         "C2.width is 16, but the space has 24 to 40 in steps of 8"),
        ({"activation": ["gelu", "silu"]}, "activation is relu, but the space has gelu or silu"),
        ({"head": 24}, "head is 0, but the space has 24"),
        ({"C1": {"transition": {"dilation": 2}}},
         "C1.transition.dilation is 1, but the space has 2"),
        ({"dropout": 0.25}, "dropout is 0.0, but the space has 0.25"),
    ],
)  # fmt: skip
def test_the_choice_that_does_not_fit_is_named(narrow: dict[str, Any], message: str) -> None:
    network = made(SPACE, C2_depth=1, C2_width=16)
    with pytest.raises(ForeignError) as error:
        expressed(network, SearchSpace.model_validate({**WIDE_SPACE, **narrow}))
    assert str(error.value) == message


def test_choices_without_effect_need_not_fit() -> None:
    network = made(SPACE, C2_depth=0, C2_width=16)
    space = SearchSpace.model_validate({**WIDE_SPACE, "C2": {"kernel": 7, "operator": "inverted"}})
    assert space.architecture(expressed(network, space)) == network


def test_what_no_space_has_is_told() -> None:
    baseline = read_architecture(STUDIES / "baseline.json")
    with pytest.raises(ForeignError, match="the units of C1 are not of one kind and width"):
        expressed(baseline, SPACE)
    network = made(SPACE)
    first, second, third, fourth = network.blocks
    with pytest.raises(ForeignError, match="C3 does not end in a transition"):
        expressed(dataclasses.replace(network, blocks=(first, second, bare(third), fourth)), SPACE)
    pooled = dataclasses.replace(network, output=dataclasses.replace(network.output, bias=False))
    with pytest.raises(ForeignError, match="its output is none"):
        expressed(pooled, SPACE)
