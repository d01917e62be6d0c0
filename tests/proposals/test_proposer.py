"""Proposals: what is accepted, what rejects, and how widths are filled."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constraints import LIMITS, Violation, check
from search.analysis.facts import count_macs, count_parameters
from search.analysis.table import analyze
from search.config.files import parse
from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.proposals.proposer import (
    NO_NETWORK,
    Acceptance,
    InfeasibleError,
    Input,
    Proposal,
    Proposer,
    estimate,
    propose,
)
from space import SearchSpace

INPUT, CLASSES = (3, 32, 32), 10
WIDTHS = ("C1.width", "C2.width", "C3.width", "C4.width")


def study(*, fill=None, limits=None, head=(0, 64, 128, 192), **space) -> StudyConfig:
    block = {
        "depth": {"low": 1, "high": 4},
        "width": {"low": 16, "high": 96, "step": 8},
        "operator": ["dense", "separable", "inverted"],
        "dilation": [1, 2],
        "squeeze_excite": [0, 4],
    }
    content = {"block": {**block, **space}, "head": head}
    if fill:
        content["fill"] = fill
    return parse({"study": {"name": "proposals"}, "space": content, "limits": limits or {}}, "test")


FILLED = study(fill={"limit": "parameters", "from": 0.85})
seeds = st.integers(0, 2**31)


@settings(max_examples=150, deadline=None)
@given(seeds, st.sampled_from([study(), FILLED, study(limits={"receptive_field": 150})]))
def test_the_verdict_is_the_checker_s(seed: int, config: StudyConfig) -> None:
    proposal = next(propose(config, INPUT, CLASSES, random.Random(seed)))
    verdict = check(proposal.architecture, config.rules)
    if config.space.fill is None:
        assert proposal.violations == verdict.violations
    if proposal.accepted:
        assert verdict.accepted


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_the_choices_mean_the_architecture_without_filling(seed: int) -> None:
    proposal = next(propose(FILLED, INPUT, CLASSES, random.Random(seed)))
    assert (
        FILLED.space.architecture(proposal.choices, input=INPUT, classes=CLASSES)
        == proposal.architecture
    )
    assert all(proposal.choices[name] in domain for name, domain in FILLED.parameters.items())


@settings(max_examples=150, deadline=None)
@given(
    seeds,
    st.sampled_from(["parameters", "macs"]),
    st.sampled_from([0.7, 0.85, 0.95]),
    st.sampled_from([(0, 64, 128, 192), {"low": 0, "high": 192, "step": 64}]),
)
def test_filling_lands_in_the_top_share_and_changes_widths_alone(
    seed: int, limit: str, share: float, head: Any
) -> None:
    limits = {"parameters": 200_000, "macs": 30_000_000, "receptive_field": 30}
    config = study(fill={"limit": limit, "from": share}, limits=limits, head=head)
    proposer = Proposer(config, INPUT, CLASSES)
    drawn = proposer.complete({}, random.Random(seed))
    filled = proposer.judge(drawn)
    if any(broken.rule != "macs" and broken.rule != "parameters" for broken in filled.violations):
        return
    count = {"parameters": count_parameters, "macs": count_macs}[limit](filled.architecture)
    assert share * limits[limit] <= count < limits[limit]
    changed = {name for name in drawn if drawn[name] != filled.choices[name]}
    assert changed <= {*WIDTHS, "head"}
    assert (drawn["head"] == 0) == (filled.choices["head"] == 0)
    assert proposer.judge(filled.choices).choices == filled.choices


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_filling_keeps_proportions_up_to_one_step(seed: int) -> None:
    proposer = Proposer(FILLED, INPUT, CLASSES)
    drawn = proposer.complete({"head": 0}, random.Random(seed))
    filled = proposer.judge(drawn)
    inner = [name for name in WIDTHS if 16 < filled.choices[name] < 96]
    if not filled.accepted or len(inner) < 2:
        return
    # Every unclipped width is its old one times a common factor, rounded to a step of 8
    # (and at most one step further where several widths step at the same factor).
    low = max((filled.choices[name] - 12) / drawn[name] for name in inner)
    high = min((filled.choices[name] + 12) / drawn[name] for name in inner)
    assert low <= high


def test_filling_fails_only_where_no_common_factor_lands() -> None:
    proposer = Proposer(FILLED, INPUT, CLASSES)
    rng = random.Random(5)
    missed = 0
    for _ in range(600):
        drawn = proposer.complete({}, rng)
        proposal = proposer.judge(drawn)
        if [broken.rule for broken in proposal.violations] != ["fill"]:
            continue
        missed += 1
        for factor in (1.02**step for step in range(-100, 100)):
            scaled = {name: 8 * round(drawn[name] * factor / 8) for name in WIDTHS}
            widths = {name: min(max(width, 16), 96) for name, width in scaled.items()}
            if drawn["head"]:
                near = min((64, 128, 192), key=lambda head, f=factor: abs(head - drawn["head"] * f))
                widths["head"] = near
            network = FILLED.space.architecture({**drawn, **widths})
            assert not 170_000 <= count_parameters(network) < 200_000
    assert 0 < missed < 60


def test_equal_widths_step_one_after_the_other() -> None:
    """Where all together jump over the range: a common factor leaves them equal."""
    config = study(fill={"limit": "parameters", "from": 0.95})
    proposer, rng, apart = Proposer(config, INPUT, CLASSES), random.Random(0), 0
    for _ in range(50):
        drawn = proposer.complete({"head": 0, **dict.fromkeys(WIDTHS, 48)}, rng)
        filled = proposer.judge(drawn)
        if filled.accepted:
            assert 190_000 <= count_parameters(filled.architecture) < 200_000
            apart += len({filled.choices[name] for name in WIDTHS}) > 1
    assert apart > 0


def test_filling_needs_its_limit() -> None:
    with pytest.raises(ConfigError, match=r"space\.fill\.limit.*macs"):
        Proposer(study(fill={"limit": "macs"}), INPUT, CLASSES)


def test_fixed_widths_fill_only_where_they_already_land() -> None:
    config = study(fill={"limit": "parameters", "from": 0.5}, width=32)
    tally = estimate(config, INPUT, CLASSES, 300, random.Random(0))
    assert tally.rejected["fill"] > 0
    assert tally.accepted > 0


def searched(*values: int) -> st.SearchStrategy[Any]:
    """An entry of a study file: one of `values`, a list of them, or a range over them."""
    one = st.sampled_from(values)
    several = st.lists(one, min_size=1, max_size=3, unique=True)
    step = values[1] - values[0]
    return one | several | st.just({"low": values[0], "high": values[-1], "step": step})


BLOCKS = st.fixed_dictionaries(
    {},
    optional={
        "depth": searched(0, 1, 2),
        "width": searched(1, 5, 9, 13),
        "operator": st.sampled_from(["dense", "separable", "inverted", ["dense", "inverted"]]),
        "kernel": searched(3, 5, 7),
        "dilation": searched(1, 2, 3),
        "residual": st.sampled_from([True, [False, True]]),
        "squeeze_excite": searched(0, 1, 2, 3),
        "transition": st.fixed_dictionaries({"halvings": searched(0, 1, 2)}),
    },
)
FILES = st.fixed_dictionaries(
    {
        "study": st.just({"name": "any"}),
        "space": st.fixed_dictionaries(
            {"block": BLOCKS, "C4": BLOCKS},
            optional={
                "head": searched(0, 8, 16),
                "fill": st.sampled_from([{"limit": name} for name in ("parameters", "macs")]),
            },
        ),
        "limits": st.dictionaries(
            st.sampled_from(sorted(LIMITS)), st.sampled_from(["off", 0, 1, 3, 40, 10**5])
        ),
    }
)


@settings(max_examples=20, deadline=None)
@given(FILES, st.sampled_from([(3, 32, 32), (1, 8, 8), (3, 96, 64)]), seeds)
def test_what_loads_can_be_sampled(content: dict[str, Any], shape: Input, seed: int) -> None:
    try:
        config = parse(content, "test")
    except ConfigError:
        return  # said before anything is drawn
    tally = estimate(config, shape, CLASSES, 200, random.Random(seed))
    assert tally.proposed == 200
    assert sum(tally.rejected.values()) >= tally.proposed - tally.accepted, "each for a reason"
    assert len(tally.summary().splitlines()) == 1
    json.dumps(tally.to_json(), allow_nan=False)


def test_choices_that_mean_no_network_are_a_rejection_of_their_own() -> None:
    config = study(limits={"receptive_field": "off"}, depth=[0, 1])
    tally = estimate(config, INPUT, CLASSES, 400, random.Random(0))
    # C4 of depth 0, a half, with a head of 0, a fourth.
    assert abs(tally.rejected[NO_NETWORK] - 50) < 4 * (400 * 1 / 8 * 7 / 8) ** 0.5
    assert tally.accepted > 0
    only = study(depth=0, limits={"receptive_field": "off"}).model_copy(
        update={"space": SearchSpace.model_validate({"C4": {"depth": 0}})}
    )
    tally = estimate(only, INPUT, CLASSES, 3, random.Random(0))
    assert dict(tally.rejected) == {NO_NETWORK: 3}
    assert "block C4 must have at least one layer" in tally.summary()
    assert tally.to_json()["closest"]["architecture"] is None


def test_the_estimate_is_the_share_of_the_whole_space() -> None:
    config = parse(
        {
            "study": {"name": "small"},
            "space": {
                "block": {"depth": [1, 2, 3], "dilation": [1, 2], "operator": ["dense"]},
                "C1": {"operator": ["dense", "separable"]},
                "C4": {"depth": 1, "dilation": 1},
                "C3": {"depth": 2},
            },
        },
        "test",
    )
    names = list(config.parameters)
    grid = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(d.values for d in config.parameters.values()))
    ]
    legal = [c for c in grid if check(config.space.architecture(c), config.rules).accepted]
    share = len(legal) / len(grid)
    assert 0.05 < share < 0.95
    n = 4_000
    tally = estimate(config, INPUT, CLASSES, n, random.Random(7))
    assert tally.proposed == n
    assert abs(tally.accepted - n * share) < 4 * (n * share * (1 - share)) ** 0.5


def test_a_tally_counts_each_broken_rule_and_keeps_the_nearest_miss() -> None:
    far, wide = (Violation(rule, 1, 1, f"{rule}!", 0.25) for rule in ("macs", "parameters"))
    near = Violation("macs", 1, 1, "nearly", 0.375)
    broken = ((far, wide), (), (near,), (far, wide))  # 0.5, legal, 0.375, 0.5
    tally = Acceptance()
    for each in broken:
        tally.add(Proposal({}, None, each))
    assert (tally.proposed, tally.accepted, tally.share) == (4, 1, 0.25)
    assert tally.to_json()["rejected"] == {"macs": 3, "parameters": 2}
    assert tally.closest == Proposal({}, None, (near,))
    assert tally.summary() == ("macs rejects 75.0%, parameters rejects 50.0%; closest miss: nearly")


def test_the_error_is_one_line_with_shares_and_the_nearest_miss() -> None:
    rules = {"receptive_field": 1_000, "parameters": "off", "dilated": "off"}
    config = study(limits={**rules, "depthwise_separable": "off"})
    tally = estimate(config, INPUT, CLASSES, 50, random.Random(3))
    message = str(InfeasibleError(tally))
    assert "\n" not in message
    assert "receptive_field rejects 100.0%" in message
    proposals = itertools.islice(propose(config, INPUT, CLASSES, random.Random(3)), 50)
    fields = [analyze(proposal.architecture).receptive_field[0] for proposal in proposals]
    assert f"but is {max(fields)}" in message
