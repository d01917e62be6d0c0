"""Plotly figures of a study, for the dashboard: where trials lie, and why proposals fail."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import plotly.graph_objects as go

from constraints import Below
from search.display import wording
from search.display.figures.style import BLUE, GRAY, INK, VERMILION
from search.storage.summary import Progress, Summary

MOST = 1000  # points in a plot: beyond, the most accurate ones

# Written out: plotly's own template would be stored again with each figure.
_LAYOUT = {
    "template": None,
    "paper_bgcolor": "white",
    "plot_bgcolor": "white",
    "font": {"color": INK, "size": 13},
    "margin": {"l": 70, "r": 80, "t": 60, "b": 60},
    # Below plotly's buttons, which lie at the top.
    "title": {"yref": "paper", "y": 1, "yanchor": "bottom", "pad": {"b": 10}},
}
# At the bottom, where a narrow window leaves it the whole width.
_LEGEND = {
    "orientation": "h",
    "itemwidth": 30,
    **{"xref": "container", "x": 0.5, "xanchor": "center"},
    **{"yref": "container", "y": 0.01, "yanchor": "bottom"},
}


def accuracy_over(summary: Summary, cost: str, title: str) -> go.Figure:
    """Accuracy of each trial over its `cost`, a field of `Progress` and perhaps a limit;
    what the limit rejects is shaded."""
    trials = _shown(summary, cost)
    figure = go.Figure(layout=_LAYOUT)
    for state, name, marker in (
        ("pruned", "pruned", {"color": GRAY, "symbol": "x-thin-open", "size": 9}),
        ("complete", "completed", {"color": BLUE, "size": 9, "opacity": 0.8}),
    ):
        _scatter(figure, [t for t in trials if t.state == state], cost, name, marker)
    if summary.best:
        star = {"color": VERMILION, "symbol": "star", "size": 17}
        _scatter(figure, summary.best[:1], cost, "best", star)
    _shade(figure, summary, cost, [getattr(t, cost) for t in trials])
    if summary.config.study.target is not None:
        _target(figure, summary.config.study.target)
    measure = summary.config.study.measure
    grid = {"gridcolor": "#E4E4E4", "zeroline": False, "linecolor": GRAY}
    figure.update_xaxes(title=title, **grid)
    figure.update_yaxes(title=f"validation {measure}", tickformat=".3~%", **grid)
    figure.update_layout(title_text=f"Accuracy over {title}", legend=_LEGEND, margin_b=85)
    return figure


def rejections(summary: Summary) -> go.Figure:
    """How many proposals each rule rejected."""
    names = [wording.rule(rule) for rule in summary.rejected]
    counts = list(summary.rejected.values())
    bars = go.Bar(x=counts, y=names, orientation="h", marker={"color": VERMILION}, text=counts)
    figure = go.Figure(bars, layout=_LAYOUT)
    figure.update_traces(texttemplate="%{x:,}", textposition="auto", hoverinfo="skip")
    accepted = f"{summary.accepted:,} of {summary.proposed:,} proposals accepted"
    figure.update_xaxes(title=accepted, gridcolor="#E4E4E4", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True, ticksuffix="  ")
    figure.update_layout(title_text="Rejections by rule")
    return figure


def _shown(summary: Summary, cost: str) -> list[Progress]:
    known = [t for t in summary.trials if t.accuracy is not None and getattr(t, cost) is not None]
    return sorted(known, key=attrgetter("accuracy"), reverse=True)[:MOST]


def _scatter(
    figure: go.Figure, trials: Sequence[Progress], cost: str, name: str, marker: dict[str, object]
) -> None:
    figure.add_scatter(
        x=[getattr(trial, cost) for trial in trials],
        y=[round(trial.accuracy or 0.0, 5) for trial in trials],
        customdata=[[trial.number, trial.receptive_field] for trial in trials],
        hovertemplate="trial %{customdata[0]}<br>%{y:.2%}, %{x:,}<br>RF %{customdata[1]}",
        mode="markers",
        name=name,
        marker=marker,
    )


def _shade(figure: go.Figure, summary: Summary, cost: str, costs: Sequence[int]) -> None:
    rule = next((rule for rule in summary.config.rules.rules if rule.key == cost), None)
    if rule is None:
        return
    limit, width = rule.value, max(abs(limit - rule.value) for limit in (*costs, 0.9 * rule.value))
    side = 1 if isinstance(rule, Below) else -1
    near, far = limit - 1.05 * side * width, limit + 0.15 * side * width
    figure.add_vrect(
        x0=limit,
        x1=far,
        fillcolor="#EFEFEF",
        line_width=0,
        layer="below",
        annotation={"text": "rejected", "textangle": -90, "font": {"color": "#555555"}},
        annotation_position="inside bottom",  # the target lies at the top
    )
    figure.add_vline(x=limit, line={"color": GRAY, "width": 1})
    figure.update_xaxes(range=sorted((near, far)))


def _target(figure: go.Figure, target: float) -> None:
    figure.add_hline(y=target, line={"color": INK, "width": 1, "dash": "dot"})
    label = f"target<br>{wording.percent(target)}"
    place = {"x": 1, "xref": "paper", "xanchor": "left", "y": target, "xshift": 4}
    figure.add_annotation(text=label, showarrow=False, align="left", **place)
