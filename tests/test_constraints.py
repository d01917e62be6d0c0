from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from constraints import LIMITS, Limits, check, violations
from search.analysis.facts import Facts, count_macs, count_parameters
from search.analysis.table import analyze
from search.analysis.tracing.trace import trace
from search.networks.architecture import Architecture, ArchitectureError, Block, Layer, Output, Unit
from search.networks.module import build
from space import SearchSpace
from tests.conftest import STUDIES, VARIED_SPACE, WIDE_SPACE
from tests.published import BASELINE

RULES = {
    "receptive_field": 44,
    "parameters": 200_000,
    "downsampling": 3,
    "depthwise_separable": 1,
    "dilated": 1,
}


@pytest.fixture(scope="module")
def baseline() -> Architecture:
    return Architecture.from_json(json.loads((STUDIES / "baseline.json").read_text()))


def limits(**values: int) -> Limits:
    return Limits.from_mapping(values)


def small(
    *units: Unit,
    transition: Layer | None = None,
    output: Output | None = None,
    side: int = 32,
) -> Architecture:
    """C1 to C4 of two channels, one 3x3 layer each, with `units` for C4's."""
    plain = Unit((Layer(2, 2, padding=1),))
    down = transition or Layer(2, 2, stride=2, padding=1)
    blocks = [Block(name, (plain,), (down,)) for name in ("C1", "C2", "C3")]
    return Architecture(
        (*blocks, Block("C4", units or (plain,))), output or Output(10), (2, side, side)
    )


def test_baseline_table_row_by_row(baseline: Architecture) -> None:
    keys = ("name", "kernel", "padding", "stride", "dilation")
    keys += ("j_in", "n_in", "n_out", "r_in", "r_out", "j_out")
    rows = check(baseline, limits(**RULES)).to_json()["layers"]
    table = [[str(row[key]) for key in keys] for row in rows[:14]]
    assert table == [line.split() for line in BASELINE]
    assert [row["name"] for row in rows[14:]] == ["CLASSIFIER"]


def test_baseline_counts_and_the_one_rule_it_breaks(baseline: Architecture) -> None:
    verdict = check(baseline, limits(**RULES))
    assert (verdict.analysis.parameters, verdict.analysis.macs) == (186_570, 23_143_552)
    assert verdict.analysis.receptive_field == (61, 61)
    (violation,) = verdict.violations
    assert (violation.rule, violation.found, violation.limit) == ("downsampling", 2, 3)
    assert "C3" in violation.message
    assert not verdict.accepted


def test_verdict_as_json_has_the_documented_keys(baseline: Architecture) -> None:
    document = json.loads(json.dumps(check(baseline, limits(**RULES)).to_json()))
    assert document["receptive_field"] == {"height": 61, "width": 61}
    assert document["jump"] == {"height": 4, "width": 4}
    assert set(document["violations"][0]) == {"rule", "found", "limit", "message"}
    assert set(document["layers"][0]) == {
        *("name", "kind", "kernel", "padding", "stride", "dilation", "groups"),
        *("n_in", "n_out", "r_in", "r_out", "j_in", "j_out", "parameters", "macs"),
    }


def test_exactly_44_is_rejected_and_45_is_not() -> None:
    # Chain of four 3x3 and three transitions: 1 + 2 + 2 + 4 + 4 + 8 + 8 + 16 = 45.
    network = small()
    assert analyze(network).receptive_field == (45, 45)
    assert violations(network, limits(receptive_field=44)) == ()
    (violation,) = violations(network, limits(receptive_field=45))
    assert (violation.found, violation.limit) == (45, 45)


def test_exactly_the_limit_of_parameters_is_rejected() -> None:
    network = small()
    # Seven 3x3 layers of 2 -> 2 with batch norm, and a linear classifier.
    assert count_parameters(network) == 7 * (36 + 4) + 2 * 10 + 10
    (violation,) = violations(network, limits(parameters=310))
    assert violation.found == 310
    assert violations(network, limits(parameters=311)) == ()


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_every_limit_says_what_it_found_and_allows(name: str) -> None:
    hardest = {"downsampling": 9, "depthwise_separable": 99, "dilated": 99, "feature_map": 999}
    rules = limits(**{name: hardest.get(name, 999 if name == "receptive_field" else 1)})
    network = small()
    (violation,) = violations(network, rules)
    assert violation.rule == name
    assert violation.excess > 0
    assert str(violation.found) in violation.message.replace(",", "")
    assert str(violation.limit) in violation.message.replace(",", "")
    assert check(network, rules).violations == (violation,)


@pytest.mark.parametrize(
    ("name", "limit", "excess"),
    [
        ("receptive_field", 90, 46 / 90),  # 91 would do, and it has 45
        ("parameters", 300, 11 / 300),  # 299 would do, and it has 310
        ("depth", 4, 3 / 4),
        ("dilated", 2, 1.0),
        ("downsampling", 6, 3 / 6),
    ],
)
def test_what_is_broken_says_how_far_it_is_from_legal(name: str, limit: int, excess: float) -> None:
    (violation,) = violations(small(), limits(**{name: limit}))
    assert violation.excess == pytest.approx(excess)


# Seven layers of 36 weights on these maps, and a classifier of 2 x 10.
SMALL_MACS = sum(36 * side**2 for side in (32, 16, 16, 8, 8, 4, 4)) + 20


@pytest.mark.parametrize(
    ("name", "kept", "broken"),
    [
        ("macs", SMALL_MACS + 1, SMALL_MACS),
        ("depth", 7, 6),
        ("feature_map", 4, 5),
        ("parameter_bytes", 1241, 1240),
        # C1's layer reads and writes 2 channels of 32 x 32 floats.
        ("activation_bytes", 2 * 2 * 32**2 * 4 + 1, 2 * 2 * 32**2 * 4),
    ],
)
def test_edge_of_limits(name: str, kept: int, broken: int) -> None:
    assert violations(small(), limits(**{name: kept})) == ()
    assert len(violations(small(), limits(**{name: broken}))) == 1


def test_residual_keeps_its_input_alive() -> None:
    wide = Layer(2, 2, padding=1)
    network = small(Unit((wide, wide), residual=True), side=8)
    # C1 dominates: 2 maps of 2 x 8 x 8 floats. In C4 of 1 x 1 cells it does not show.
    assert analyze(network).activation_bytes == 2 * 2 * 64 * 4
    first = Block("C1", (Unit((wide, wide), residual=True),), (Layer(2, 2, stride=2, padding=1),))
    kept = Architecture((first, *network.blocks[1:]), network.output, network.input)
    assert analyze(kept).activation_bytes == 3 * 2 * 64 * 4


@pytest.mark.parametrize(
    ("network", "words", "count"),
    [
        (small(Unit((Layer(2, 2, stride=2, padding=1),))), "is a 3x3 stride-2 layer in C4", 3 + 1),
        (small(transition=Layer(2, 2, 5, stride=2, padding=2)), "there are 0", 0 + 3),
        (small(transition=Layer(2, 2, 3, stride=3, padding=1)), "there are 0", 0 + 3),
        (small(output=Output(10, "conv", True, 2, 2)), "leaves 4", 3),
    ],
)
def test_other_downsampling_is_found(network: Architecture, words: str, count: int) -> None:
    (violation,) = violations(network, limits(downsampling=3))
    assert words in violation.message
    assert violation.found == count


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("dilated", 1, "at least 1 dilated convolution (kernel > 1, dilation > 1) needed"),
        ("dilated", 2, "at least 2 dilated convolutions (kernel > 1, dilation > 1) needed"),
        ("depthwise_separable", 2, "at least 2 depthwise separable convolutions (depthwise k x k"),
        ("depth", 1, "at most 1 convolution allowed, but got "),
        ("depth", 2, "at most 2 convolutions allowed, but got "),
        ("downsampling", 3, "exactly 3 3x3 stride-2 convolutions must downsample, one at the end"),
        ("downsampling", 3, "but there is 1 (none ends C2, C3)"),
        ("downsampling", 2, "exactly 2 3x3 stride-2 convolutions must downsample, at the ends"),
    ],
)
def test_one_is_no_plural(limit: str, value: int, words: str) -> None:
    blocks = [Block(b.name, b.units, b.transition[: b.name == "C1"]) for b in small().blocks]
    network = Architecture(tuple(blocks), Output(10), (2, 32, 32))
    (violation,) = violations(network, Limits.from_mapping({limit: value}))
    assert words in violation.message


def test_a_separable_transition_is_one_too() -> None:
    down = (Layer(2, 2, stride=2, padding=1, groups=2, norm=False), Layer(2, 2, 1))
    blocks = [Block(b.name, b.units, b.transition and down) for b in small().blocks]
    network = Architecture(tuple(blocks), Output(10), (2, 32, 32))
    assert violations(network, limits(downsampling=3, depthwise_separable=3)) == ()


@pytest.mark.parametrize(
    ("padding", "dilation", "halves"),
    [(0, 1, True), (1, 1, True), (2, 2, True), (2, 1, False), (17, 1, False)],
)
def test_a_transition_that_is_padded_to_keep_the_size_is_none(
    padding: int, dilation: int, halves: bool
) -> None:
    down = Layer(2, 2, stride=2, padding=padding, dilation=dilation)
    network = small(transition=down, side=64)
    for target in (network, trace(build(network), (2, 64, 64))):
        assert check(target, limits(downsampling=3)).accepted == halves


class SideBySide(torch.nn.Module):
    """Two transitions that read the same map, and `after` one after the other."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.a, self.b, *self.after = torch.nn.ModuleList(
            torch.nn.Conv2d(2, 2, 3, stride=2, padding=1) for _ in range(2 + after)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x) + self.b(x)
        for layer in self.after:
            x = layer(x)
        return x.mean((2, 3))


@pytest.mark.parametrize(("after", "start"), [(1, "exactly 3"), (2, "nothing else")])
def test_transitions_side_by_side_halve_once(after: int, start: str) -> None:
    (violation,) = check(trace(SideBySide(after), (2, 32, 32)), limits(downsampling=3)).violations
    assert violation.message.startswith(start)
    assert violation.message.endswith(
        "nothing else may downsample, but there is conv b beside another"
    )


def test_a_window_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ArchitectureError, match=r"CONV7 in C4: a window of 5 .* map of 1"):
        analyze(small(Unit((Layer(2, 2, 5),)), side=8))
    with pytest.raises(ArchitectureError, match="window of 5"):
        violations(small(Unit((Layer(2, 2, 5),)), side=8), limits(downsampling=3))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"recptive_field": 44}, "did you mean 'receptive_field'"),
        ({"colour": 1}, "known: receptive_field"),
        ({"parameters": 1.5}, "whole number"),
        ({"parameters": True}, "whole number"),
        ({"parameters": -1}, "at least 1"),
        ({"parameters": "none"}, 'whole number or "off"'),
    ],
)
def test_bad_limits(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Limits.from_mapping(values)


@pytest.mark.parametrize("name", sorted(LIMITS))
@pytest.mark.parametrize("value", ["off", 0])
def test_a_rule_that_is_off_is_none(name: str, value: Any) -> None:
    others = {other: 9 for other in LIMITS if other != name}
    asked = Limits.from_mapping({**others, name: value}).to_mapping()
    # That nothing may downsample is a rule too.
    assert asked == others | ({name: 0} if (name, value) == ("downsampling", 0) else {})


def test_limits_keep_their_order() -> None:
    values = {"dilated": 1, "receptive_field": 44}
    assert list(Limits.from_mapping(values).to_mapping()) == ["dilated", "receptive_field"]


# -------------------------------------------------------------------- random candidates


@given(st.integers(0, 2**32), st.sampled_from([WIDE_SPACE, VARIED_SPACE]))
@settings(max_examples=60, deadline=None)
def test_the_fast_way_agrees_with_the_table(seed: int, choices: dict[str, Any]) -> None:
    space = SearchSpace.model_validate(choices)
    network = space.architecture(space.sample(random.Random(seed)))
    table, fast = analyze(network), Facts(network)
    for name in ("receptive_field", "parameters", "macs", "feature_map", "structure"):
        assert getattr(fast, name) == getattr(table, name)
    assert table.parameters == sum(row.parameters for row in table.layers)
    assert table.macs == sum(row.macs for row in table.layers) == count_macs(network)
    rules = limits(**RULES, macs=5_000_000, depth=12, activation_bytes=300_000)
    assert violations(network, rules) == check(network, rules).violations
