"""The figure that lays studies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from search.display.figures.search import pareto_front, thousands
from search.display.figures.style import CYCLE, canvas, percent_scale, styled

Points = Sequence[tuple[int, float]]


@styled
def figure_comparison(roads: Mapping[str, Sequence[float]], sizes: Mapping[str, Points]) -> Figure:
    """Left, the best accuracy after each completed trial; right, the Pareto fronts of accuracy
    over parameters.  `roads` and `sizes` (parameters, accuracy) are by the study's name."""
    figure = canvas(3.0)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes in (left, right):  # more studies than colors: shapes tell them apart
        axes.set_prop_cycle(cycler(marker=["o", "s", "^"]) * cycler(color=CYCLE))
    for name, road in roads.items():
        left.step(range(1, len(road) + 1), road, where="post", ms=3, label=name)
    for points in sizes.values():
        x, y = np.asarray(points, float).reshape(-1, 2).T
        front = pareto_front(x, y)
        right.plot(x[front], y[front], ms=4)
    left.set(xlabel="completed trials", ylabel="best validation accuracy")
    left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    right.set(xlabel="parameters (Pareto front)")
    right.xaxis.set_major_formatter(FuncFormatter(thousands))
    for axes in (left, right):
        axes.grid(axis="y")
    percent_scale(left)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure
