"""How numbers, rules and networks read."""

from __future__ import annotations

import json

import pytest

from constraints import Limits
from search.analysis.table import analyze
from search.config.sections import DEFAULT_LIMITS
from search.display import wording
from search.networks.architecture import Architecture
from search.storage.finalists import Finalist
from tests.conftest import STUDIES
from tests.published import BASELINE


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (-5, "0:00"), (0, "0:00"), (0.4, "0:00"), (59.6, "1:00"), (63, "1:03"),
     (3723, "1:02:03"), (3_600_000, "1,000:00:00")],
)  # fmt: skip
def test_times(seconds: float | None, words: str) -> None:
    assert wording.duration(seconds) == words


def test_what_draws_cannot_tell_from_certainty_is_told_alike_everywhere() -> None:
    each = [Finalist(trial=1, once=0.5, probability=p) for p in (None, 0.03, 0.97, 0.996, 1.0)]
    told = [wording.finalist(finalist)[-1] for finalist in each]
    assert told == ["–", "3 %", "97 %", "over 99 %", "over 99 %"]


def test_numbers() -> None:
    assert wording.percent(0.8512) == "85.12 %"
    assert wording.percent(0.8512, 0) == "85 %"
    assert wording.count(186_570) == "186,570"
    assert wording.macs(23_140_000) == "23.14 M"
    assert {wording.percent(None), wording.count(None), wording.macs(None)} == {"–"}
    assert [wording.plural(n, "trial") for n in (0, 1, 2_000)] == [
        "0 trials",
        "1 trial",
        "2,000 trials",
    ]


@pytest.mark.parametrize(
    ("pflop", "words"),
    [(None, "–"), (7.5e-5, "75 GFLOP"), (0.036, "36 TFLOP"), (0.000119, "119 GFLOP"),
     (0.9994, "999 TFLOP"), (0.9996, "1 PFLOP"), (1.5, "1.5 PFLOP"), (1234, "1.23 EFLOP"),
     (2e-11, "0.02 MFLOP"), (0.0, "0 MFLOP")],
)  # fmt: skip
def test_the_cost_of_a_training(pflop: float | None, words: str) -> None:
    assert wording.flops(pflop) == words


def test_a_rule_is_named_in_words_be_it_a_limit_or_none() -> None:
    assert wording.rule("macs") == "MACs"
    assert wording.rule("receptive_field") == "receptive field"
    assert wording.rule("no_network") == "no network"


def test_the_baseline_reads_as_its_author_published_it() -> None:
    facts = analyze(Architecture.from_json(json.loads((STUDIES / "baseline.json").read_text())))
    rules = Limits.from_mapping(DEFAULT_LIMITS).rules
    found = {rule.key: wording.count(rule.found(facts)) for rule in rules}
    assert (found["receptive_field"], found["parameters"]) == ("61", "186,570")
    assert found["downsampling"] == "2", "the rule that it breaks"
    rows = {row.name: row for row in facts.layers if row.block != "O"}
    for published in BASELINE:
        name, *numbers = published.split()
        assert wording.geometry(rows[name]) == numbers
        assert len(wording.GEOMETRY) == len(numbers)


@pytest.mark.parametrize(
    ("finished", "budget", "words"),
    [
        (0, 1, "0 of 1 trial"),
        (10, 10, "10 of 10 trials"),
        (20, 10, "20 trials (budget: 10)"),
        (2, 1, "2 trials (budget: 1)"),
    ],
)
def test_a_study_beyond_its_budget(finished: int, budget: int, words: str) -> None:
    assert wording.of_budget(finished, budget) == words
