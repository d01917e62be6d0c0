from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from constraints import Limits, violations
from search.analysis.facts import Facts
from search.config.files import parse
from search.domains import Choice
from space import SearchSpace
from tests.conftest import WIDE_SPACE, candidates

SPACE = SearchSpace.model_validate(WIDE_SPACE)


@pytest.mark.parametrize(
    ("fixed", "inactive"),
    [
        ({"C2.operator": "dense"}, {"C2.expansion": [2, 3]}),
        ({"C1.operator": "separable"}, {"C1.expansion": [2, 3]}),
        ({"C2.width": 8, "C3.width": 16, "C3.depth": 0}, {"C3.kernel": [3, 5]}),
        ({"C3.depth": 0}, {"C3.residual": [False, True], "C3.squeeze_excite": [0, 4]}),
        ({"C1.depth": 1, "C1.width": 8}, {"C1.residual": [False, True]}),
    ],
)
def test_inactive_choices_leave_no_trace(
    fixed: dict[str, object], inactive: dict[str, list[object]]
) -> None:
    choices = {**SPACE.sample(random.Random(1)), **fixed}
    for name, values in inactive.items():
        networks = {SPACE.architecture({**choices, name: value}).hash for value in values}
        assert len(networks) == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("C2.depth", [1, 2, 3]),
        ("C2.width", [4, 8, 32]),
        ("C2.operator", ["dense", "separable", "inverted"]),
        ("C2.kernel", [3, 5]),
        ("C2.dilation", [1, 2, 3]),
        ("C2.residual", [False, True]),
        ("C2.squeeze_excite", [0, 4]),
        ("C2.transition.operator", ["dense", "separable"]),
        ("C2.transition.dilation", [1, 2]),
        ("C2.transition.bottleneck", [False, True]),
        ("head", [0, 24, 40]),
        ("activation", ["relu", "gelu"]),
        ("classifier", ["linear", "conv"]),
    ],
)
def test_active_choices_make_networks_of_their_own(name: str, values: list[object]) -> None:
    choices = {**SPACE.sample(random.Random(2)), "C2.depth": 2}
    networks = {SPACE.architecture({**choices, name: value}) for value in values}
    assert len(networks) == len(values)


def test_transitions_end_c1_to_c3_with_a_3x3_of_stride_2() -> None:
    for architecture in candidates(200):
        for block in architecture.blocks:
            strided = [layer for layer in block.layers if layer.stride == 2]
            assert len(strided) == (block.name != "C4")
            assert all(layer.kernel == 3 for layer in strided)
            assert not any(layer.stride > 1 for unit in block.units for layer in unit.layers)


def test_the_parameters_are_flat_and_of_fixed_order() -> None:
    otherwise = {
        name: dict(reversed(value.items())) if isinstance(value, dict) else value
        for name, value in reversed(WIDE_SPACE.items())
    }
    assert [*SPACE.parameters] == [*SearchSpace.model_validate(otherwise).parameters]
    blocks = [name.split(".")[0] for name in SPACE.parameters if "." in name]
    assert blocks == sorted(blocks), "each block's stand together"
    assert "C4.transition.operator" not in SPACE.parameters
    assert set(SPACE.sample(random.Random(0))) == set(SPACE.parameters)


def test_a_single_value_is_no_parameter() -> None:
    space = SearchSpace.model_validate({"block": {"depth": 2, "width": [8, 16]}})
    assert set(space.parameters) == {f"C{n}.width" for n in range(1, 5)}
    assert len(space.architecture(space.sample(random.Random(0))).blocks[1].units) == 2


def test_a_block_overrules_what_stands_for_all() -> None:
    space = SearchSpace.model_validate(
        {"block": {"depth": [1, 2], "transition": {"dilation": 2}}, "C2": {"depth": 3}}
    )
    assert "C2.depth" not in space.parameters
    assert space.C2.depth == 3
    assert space.C2.transition.dilation == 2


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"block": {"dilation": -1}}, "must lie in"),
        ({"block": {"dilation": 0}}, "must lie in"),
        ({"block": {"width": 10**9}}, "must lie in"),
        ({"block": {"depth": 10**6}}, "must lie in"),
        ({"block": {"width": 0}}, "must lie in"),
        ({"block": {"width": -4}}, "must lie in"),
        ({"block": {"width": 3.5}}, "a whole number"),
        ({"block": {"width": "wide"}}, "a whole number"),
        ({"block": {"kernel": 0}}, "must lie in"),
        ({"block": {"kernel": -3}}, "must lie in"),
        ({"block": {"kernel": 99}}, "must lie in"),
        ({"block": {"kernel": [3, 4]}}, "odd"),
        ({"block": {"kernel": []}}, "must not be empty"),
        ({"block": {"width": [8, 8]}}, "distinct"),
        ({"block": {"operator": "sparse"}}, "must be one of dense"),
        ({"block": {"width": {"low": 9, "high": 3}}}, "low <= high"),
        ({"block": {"width": {"low": 3, "high": 9, "step": 4}}}, "step must divide"),
        ({"block": {"residual": 1}}, "true or false"),
        ({"dropout": float("nan")}, "must lie in"),
        ({"dropout": {"low": 0.0, "high": 0.5, "log": True}}, "log range"),
        ({"stride": 2}, "Extra inputs"),
    ],
)
def test_a_space_that_means_nothing_is_refused(space: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SearchSpace.model_validate(space)


def _asking(total: int | str, **space: object) -> SearchSpace:
    return parse(
        {"study": {"name": "s"}, "space": space, "limits": {"downsampling": total}}, "here"
    ).space


@pytest.mark.parametrize("total", range(7))
def test_a_space_halves_as_often_as_its_limit_asks(total: int) -> None:
    network = _asking(total).architecture({}, input=(3, 224, 224))
    rules = Limits.from_mapping({"downsampling": total})
    assert violations(network, rules) == ()
    assert Facts(network).feature_map == (224 // 2**total,) * 2 if total < 6 else (4, 4)
    strides = [sum(layer.stride > 1 for layer in block.transition) for block in network.blocks]
    assert strides == sorted(strides, reverse=True)
    others = [Limits.from_mapping({"downsampling": n}) for n in range(7) if n != total]
    assert all(violations(network, other) for other in others)


def test_what_a_space_says_of_its_halvings_holds() -> None:
    said = {"block": {"transition": {"halvings": [0, 2]}}, "C2": {"transition": {"dilation": 2}}}
    space = _asking(3, **said)
    assert {space.C1.transition.halvings, space.C2.transition.halvings} == {Choice(values=(0, 2))}
    for total, number, shares in ((2, 0, [0, 1, 1]), (3, 2, [2, 1, 0]), (1, 2, [2, 0, 0])):
        one = _asking(total, C1={"transition": {"halvings": number}})
        assert [getattr(one, name).transition.halvings for name in ("C1", "C2", "C3")] == shares
    some = _asking(3, C3={"transition": {"halvings": [0, 1]}})
    assert [some.C1.transition.halvings, some.C2.transition.halvings] == [1, 1]
    assert _asking("off") == SearchSpace(), "three, as ever"


def test_without_strides_kernels_reach_as_far_as_strides_would_have_let_them() -> None:
    network = _asking(0).architecture({})
    assert [block.transition[0].dilation for block in network.blocks[:3]] == [2, 4, 8]
    assert all(layer.stride == 1 for block in network.blocks for layer in block.layers)
    assert Facts(network).feature_map == (32, 32)
    # Four 3x3 units of 2 pixels each, transitions of 2 x 2, 2 x 4 and 2 x 8.
    assert Facts(network).receptive_field == (1 + 8 + 28,) * 2
    mixed = _asking(3, C2={"transition": {"halvings": 0, "dilation": 3}}).architecture({})
    assert [layer.dilation for layer in mixed.blocks[1].transition] == [6]


def test_the_ends_of_blocks_are_where_halvings_belong() -> None:
    uneven = {"C1": {"transition": {"halvings": 2}}, "C3": {"transition": {"halvings": 0}}}
    (broken,) = violations(
        SearchSpace.model_validate(uneven).architecture({}),
        Limits.from_mapping({"downsampling": 3}),
    )
    assert "none ends C3" in broken.message
