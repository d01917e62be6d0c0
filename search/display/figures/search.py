"""Figures of a search: funnel, history, importances, accuracy against size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from search.display import wording
from search.display.figures.style import (
    BLUE,
    GRAY,
    INK,
    SKY,
    VERMILION,
    Shares,
    canvas,
    percent_scale,
    styled,
)

IMPORTANT = 15  # choices shown


@styled
def figure_funnel(stages: Mapping[str, int], rejected: Mapping[str, int]) -> Figure:
    """Left, how many candidates reached each stage; right, how many each rule rejected."""
    bars = max(len(stages), len(rejected), 1)
    figure = canvas(0.8 + 0.32 * bars)
    left, right = figure.subplots(1, 2)
    _counted_bars(left, stages, BLUE, "Candidates", bars)
    ruled = {wording.rule(name): count for name, count in rejected.items()}
    _counted_bars(right, ruled or {"none": 0}, VERMILION, "Rejections by rule", bars)
    return figure


def _counted_bars(axes: Axes, counts: Mapping[str, int], color: str, title: str, rows: int) -> None:
    bars = axes.barh(list(counts), list(counts.values()), color=color, height=0.68)
    axes.bar_label(bars, [f"{n:,}" for n in counts.values()], padding=3, fontsize=8)
    axes.set(title=title, xlim=(0, 1.25 * max(1, *counts.values())), ylim=(rows - 0.5, -0.5))
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)


@styled
def figure_history(
    numbers: Sequence[int],
    accuracies: Shares,
    pruned: Sequence[bool],
    target: float | None = None,
    measure: str = "accuracy",
) -> Figure:
    """Accuracy of every trial in order, and the best so far among those that finished; `measure`
    is what kind it is."""
    figure = canvas(2.7)
    axes = figure.subplots()
    x, y, cut = np.asarray(numbers), np.asarray(accuracies, float), np.asarray(pruned, bool)
    if cut.any():
        axes.scatter(x[cut], y[cut], s=22, marker="x", color=GRAY, lw=1.2, label="pruned")
    axes.scatter(x[~cut], y[~cut], s=24, color=BLUE, label="complete")
    if (~cut).any():
        best = np.maximum.accumulate(y[~cut])
        axes.step(x[~cut], best, where="post", color=VERMILION, label="best so far")
    if target is not None:
        axes.axhline(target, color=INK, lw=1, ls=":", label=f"target {target:.1%}")
    axes.grid(axis="y")
    axes.set(xlabel="trial", ylabel=f"validation {measure}", xlim=(x.min() - 0.6, x.max() + 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    percent_scale(axes)
    axes.legend(fontsize=8)
    return figure


@styled
def figure_importance(
    importance: Mapping[str, float],
    spreads: Mapping[str, float] | None = None,
    chance: float | None = None,
) -> Figure:
    """Share of the variance of accuracy that each hyperparameter explains, largest first, and how
    far it spreads; a line at what `chance` explains."""
    top = sorted(importance.items(), key=lambda item: -item[1])[:IMPORTANT]
    figure = canvas(0.8 + 0.24 * len(top))
    axes = figure.subplots()
    errors = [spreads[name] for name, _ in top] if spreads else None
    bars = axes.barh(
        [name for name, _ in top], [value for _, value in top],
        xerr=errors, color=BLUE, ecolor=GRAY, height=0.7,
    )  # fmt: skip
    if chance is not None:
        axes.axvline(chance, color=VERMILION, lw=1, ls=":", label="chance")
        axes.legend(fontsize=8, loc="lower right")
    axes.bar_label(bars, [f"{value:.0%}" for _, value in top], padding=3, fontsize=8)
    axes.invert_yaxis()
    largest = max(chance or 0.0, *(value for _, value in top))
    axes.set(xlabel="importance", xlim=(0, 1.15 * largest + 1e-9))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


@styled
def figure_tradeoff(
    accuracies: Shares,
    costs: Mapping[str, Sequence[float]],
    winner: int | None = None,
    limits: Mapping[str, float] | None = None,
    measure: str = "accuracy",
) -> Figure:
    """Accuracy over each cost (parameters, MACs): every trial, the Pareto front, the winner.

    `winner` is an index into the trials; what a limit forbids is shaded.
    `measure` is what kind of accuracy it is.
    """
    figure = canvas(3.0)
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    y = np.asarray(accuracies, float)
    for axes, (name, values) in zip(panels, costs.items(), strict=True):
        x = np.asarray(values, float)
        front = pareto_front(x, y)
        axes.scatter(x, y, s=20, color=SKY, label="trial")
        axes.plot(x[front], y[front], "o-", ms=4, color=BLUE, lw=1.4, label="Pareto front")
        if winner is not None:
            axes.scatter(
                x[winner], y[winner], s=130, marker="*", color=VERMILION, zorder=3, label="winner"
            )
        _shade_limit(axes, x, (limits or {}).get(name))
        axes.grid(axis="y")
        axes.set(xlabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    percent_scale(panels[0])
    panels[0].set_ylabel(f"validation {measure}")
    panels[-1].legend(fontsize=8)
    return figure


def _shade_limit(axes: Axes, x: NDArray[np.float64], limit: float | None) -> None:
    if limit is None:
        return
    right = limit + 0.12 * (limit - x.min())
    axes.axvspan(limit, right, color="#EFEFEF", lw=0)
    axes.set_xlim(right=right)
    axes.text(
        (limit + right) / 2, 0.97, "rejected", rotation=90, ha="center", va="top", fontsize=8,
        color="#555555", transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def thousands(value: float, _: object = None) -> str:
    """12000 -> `12k`, for an axis."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def pareto_front(costs: NDArray[np.float64], gains: NDArray[np.float64]) -> list[int]:
    """Indices, by rising cost, of the points that no cheaper point equals or beats."""
    front: list[int] = []
    for index in np.lexsort((-gains, costs)):
        if not front or gains[index] > gains[front[-1]]:
            front.append(int(index))
    return front
