"""Notes: every number in them is one that was given, and the Markdown holds together."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from torch import nn

from constraints import Limits, check
from search.analysis.table import analyze
from search.analysis.traced import TracedModule
from search.analysis.tracing.trace import trace
from search.config.files import overridden
from search.display.dashboard.notes import study_note, trial_note
from search.networks.glance import LEGEND
from search.storage.summary import Summary, summarize
from tests.conftest import candidates
from tests.synthetic_study import build, config

NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("notes")
    return summarize(build(config(), f"sqlite:///{folder}/s.db", trials=14, running=1))


def _tables(note: str) -> list[list[list[str]]]:
    """The cells of each table, as a Markdown parser reads them."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(note):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and tables[-1] and token.level >= 4:
            tables[-1][-1].append(token.content.replace("&ensp;", "").strip())
    return tables


def test_the_leaderboard_is_sorted_and_linked(summary: Summary) -> None:
    rows = _tables(study_note(summary, 7, NOW))[0][1:]
    accuracies = [float(row[1].removesuffix(" %")) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    for row, trial in zip(rows, summary.best, strict=False):
        link = f"[#{trial.number}](/dashboard/studies/7/trials?numbers={trial.number})"
        assert row[0] == link
        assert row[3] == f"{trial.parameters:,}"


def test_balanced_accuracy_is_called_that(summary: Summary) -> None:
    rare = replace(summary, config=overridden(summary.config, ['study.metric="balanced_accuracy"']))
    note = study_note(rare, 7, NOW)
    assert note.startswith("Objective: **balanced accuracy** on validation images")
    assert _tables(note)[0][0][1] == "balanced accuracy"
    assert _tables(study_note(summary, 7, NOW))[0][0][1] == "accuracy"


def test_the_bars_of_the_funnel_are_as_long_as_their_counts(summary: Summary) -> None:
    rows = _tables(study_note(summary, 7, NOW))[1][1:]
    assert int(rows[0][1].replace(",", "")) == summary.proposed
    for _, count, bar in rows:
        share = int(count.replace(",", "")) / summary.proposed
        assert len(bar) == pytest.approx(24 * share, abs=0.5)


def test_the_road_to_the_target(summary: Summary) -> None:
    best = summary.road[-1]
    note = study_note(summary, 7, NOW)
    assert f"{100 * best:.2f} % so far, {100 * (0.85 - best):.2f} points to go" in note
    lower = overridden(summary.config, [f"study.target={best - 0.01}"])
    met = replace(summary, config=lower)
    assert f"**met** with {100 * best:.2f} %" in study_note(met, 7, NOW)
    assert "Written at 2026-01-02 03:04:05." in note


@pytest.mark.parametrize("seed", range(3))
def test_a_trial_is_judged_rule_by_rule(seed: int) -> None:
    (architecture,) = candidates(1, seed=seed)
    limits = Limits.from_mapping({"receptive_field": 60, "parameters": 9_000, "downsampling": 3})
    verdict = check(architecture, limits)
    note = trial_note(architecture, limits)
    judged, layers = _tables(note)
    broken = {violation.rule for violation in verdict.violations}
    assert [row[0] for row in judged[1:]] == [
        "✗" if rule.key in broken else "✓" for rule in limits.rules
    ]
    assert len(layers) == 1 + len(verdict.analysis.layers)
    assert sum(int(row[-2].replace(",", "")) for row in layers[1:]) == verdict.analysis.parameters
    assert {len(row) for row in layers} == {14}
    assert re.findall(r"^C\d", note, re.MULTILINE) == ["C1", "C2", "C3", "C4"]


def test_a_module_is_shown_without_the_words_for_blocks() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    analysis = analyze(trace(module, (3, 32, 32)))
    limits = Limits.from_mapping({"receptive_field": 2})
    network = TracedModule("mine.py:network", "0" * 64, (3, 32, 32), 10, analysis)
    note = trial_note(network, limits)
    assert "mine.py:network" in note
    assert LEGEND not in note
    assert LEGEND in trial_note(*candidates(1), limits)


def test_a_study_without_trials(tmp_path: Path) -> None:
    study = build(config("empty"), f"sqlite:///{tmp_path}/e.db", trials=0, running=0)
    note = study_note(summarize(study), 1, NOW)
    assert "No trial completed yet." in note
    assert "no trial completed yet · 0 of 40 trials finished" in note
