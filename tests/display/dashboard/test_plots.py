"""Plots of a study: points, shades and bars lie where the trials and the limits are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.display.dashboard import plots
from search.storage.summary import Summary, summarize
from tests.synthetic_study import build, config


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("plots")
    return summarize(build(config(), f"sqlite:///{folder}/s.db", trials=14, running=1))


def _traces(figure: Any) -> dict[str, list[tuple[float, float]]]:
    return {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data}


@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_every_trial_is_a_point_of_its_state(summary: Summary, cost: str) -> None:
    traces = _traces(plots.accuracy_over(summary, cost, cost))
    for state, name in (("complete", "completed"), ("pruned", "pruned")):
        expected = [(getattr(t, cost), t.accuracy) for t in summary.trials if t.state == state]
        assert sorted(traces[name]) == sorted((x, pytest.approx(y, abs=1e-5)) for x, y in expected)
    assert len(traces["best"]) == 1
    assert traces["best"][0][1] == max(y for points in traces.values() for _, y in points)


def test_what_a_limit_rejects_is_shaded_and_no_trial_lies_there(summary: Summary) -> None:
    figure = plots.accuracy_over(summary, "parameters", "parameters")
    (shade,) = (shape for shape in figure.layout.shapes if shape.type == "rect")
    assert shade.x0 == 200_000
    low, high = figure.layout.xaxis.range
    points = [x for trace in figure.data for x in trace.x]
    assert all(low < x < shade.x0 for x in points)
    assert high == shade.x1
    field = plots.accuracy_over(summary, "receptive_field", "receptive field")
    (shade,) = (shape for shape in field.layout.shapes if shape.type == "rect")
    assert shade.x0 == 44
    assert shade.x1 == field.layout.xaxis.range[0] < 44
    assert all(x > 44 for trace in field.data for x in trace.x)
    free = plots.accuracy_over(summary, "macs", "MACs")
    assert not [shape for shape in free.layout.shapes if shape.type == "rect"]


@pytest.mark.parametrize("step", [0.1, 0.02, 0.01, 0.005, 0.001, 0.0002, 0.00001])
def test_neighboring_ticks_never_read_alike(summary: Summary, step: float) -> None:
    """Whole per cents would repeat themselves where accuracies lie within a point or two."""
    told = plots.accuracy_over(summary, "macs", "MACs").layout.yaxis.tickformat
    # As d3 defines it: per cents with so many decimals, `~` without the zeros at their end.
    digits = re.fullmatch(r"\.(\d+)~%", told)
    assert digits
    ticks = [100 * (0.8 + n * step) for n in range(8)]
    read = [float(f"{tick:.{digits[1]}f}") for tick in ticks]
    assert read == pytest.approx(ticks, abs=1e-9)


def test_only_the_best_of_many_are_drawn(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "MOST", 3)
    traces = _traces(plots.accuracy_over(summary, "macs", "MACs"))
    drawn = sorted(y for name in ("completed", "pruned") for _, y in traces[name])
    known = sorted(t.accuracy for t in summary.trials if t.accuracy is not None)
    assert drawn == pytest.approx(known[-3:], abs=1e-5)


def test_bars_of_rejections(summary: Summary) -> None:
    rejected = {"receptive_field": 7, "macs": 5, "no_network": 1}
    (bars,) = plots.rejections(replace(summary, rejected=rejected)).data
    assert list(bars.x) == [7, 5, 1]
    assert list(bars.y) == ["receptive field", "MACs", "no network"]


def test_an_empty_study_is_drawn(tmp_path: Path) -> None:
    empty = summarize(build(config("empty"), f"sqlite:///{tmp_path}/e.db", trials=0, running=0))
    assert not plots.rejections(empty).data[0].x
    assert not _traces(plots.accuracy_over(empty, "parameters", "parameters"))["completed"]
