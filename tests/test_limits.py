"""What any rule does; that a new one shows everywhere is what test_seams holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from constraints import LIMITS, Limit, Limits
from search.config.sections import DEFAULT_LIMITS


def rule(name: str, value: int) -> Limit:
    (only,) = Limits.from_mapping({name: value}).rules
    return only


def test_rules_say_the_comparison_they_make() -> None:
    assert str(rule("receptive_field", 44)) == "receptive field > 44"
    assert str(rule("parameters", 200_000)) == "parameters < 200,000"
    assert str(rule("downsampling", 3)) == "downsampling exactly 3"
    assert str(rule("depthwise_separable", 1)) == "depthwise separable at least 1"
    assert str(rule("depth", 20)) == "depth at most 20"
    assert LIMITS["macs"].words == "MACs"


@pytest.mark.parametrize(
    ("name", "weaker"),
    [
        ("receptive_field", range(1, 44)),
        ("parameters", range(200_001, 200_040)),
        ("downsampling", (0, 1, 2, *range(4, 43))),
        ("depthwise_separable", ()),
        ("dilated", ()),
    ],
)
def test_what_asks_less_than_the_assignment(name: str, weaker: Sequence[int]) -> None:
    usual = rule(name, DEFAULT_LIMITS[name])
    around = range(max(usual.lowest, usual.value - 43), usual.value + 40)
    assert [value for value in around if rule(name, value).asks_less(usual)] == list(weaker)
