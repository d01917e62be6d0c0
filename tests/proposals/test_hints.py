from __future__ import annotations

import re

from torch import nn

from constraints import Limits, check
from search.analysis.tracing.trace import trace
from search.proposals.hints import hints


def network(dilation: int = 1, separable: bool = False) -> nn.Module:
    last = (
        [nn.Conv2d(16, 16, 3, padding=dilation, dilation=dilation, groups=16), nn.Conv2d(16, 64, 1)]
        if separable
        else [nn.Conv2d(16, 64, 3, padding=dilation, dilation=dilation)]
    )
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.MaxPool2d(2),
        *last,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def told(**limits: int) -> tuple[str, ...]:
    rules, graph = Limits.from_mapping(limits), trace(network(), (3, 32, 32))
    return hints(graph, check(graph, rules), rules)


def test_the_dilation_named_is_enough_when_it_is_made() -> None:
    (line,) = told(receptive_field=9)
    match = re.fullmatch(r"dilation (\d) and padding \1 in 2: RF (\d+)", line)
    assert match
    for dilation in (1, int(match[1]) - 1, int(match[1])):
        found = check(trace(network(dilation), (3, 32, 32)), Limits(())).analysis.receptive_field
        assert (found[0] > 9) == (dilation == int(match[1]))
    assert found == (int(match[2]),) * 2


def test_a_dilation_is_named_where_one_is_asked() -> None:
    (line,) = told(dilated=1)
    assert line.startswith("dilation 2 and padding 2 in 2: RF ")


def test_the_weights_spared_are_those_of_the_module_made_so() -> None:
    share, line = told(parameters=9_000)
    before, after = (
        sum(p.numel() for name, p in network(1, how).named_parameters() if "weight" in name)
        for how in (False, True)
    )
    assert line.endswith(f"in place of 2: {before - after:,} weights less")
    assert (
        share
        == f"2 carries {(9 * 16 * 64 + 64) / (448 + 9 * 16 * 64 + 64 + 650):.0%} of the parameters"
    )


def test_pooling_is_named_with_what_takes_its_place() -> None:
    assert any(line.endswith("in place of maxpool 1") for line in told(downsampling=1))


def test_there_is_nothing_to_mend_in_a_legal_one() -> None:
    assert told(parameters=10**6) == ()
