"""Figures of reports and dashboards: plain values in, a matplotlib `Figure` out.

Nothing touches pyplot's global state.  One style and one palette (Okabe and Ito, 2008, told
apart by color-blind readers) hold for all of them; `diagram.py` has those of networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from search.display.figures.style import (
    BLUE,
    CYCLE,
    INK,
    History,
    Shares,
    canvas,
    percent_scale,
    styled,
)


@styled
def figure_learning_curves(
    runs: Mapping[str, History], target: float | None = None, metric: str = "accuracy"
) -> Figure:
    """Validation accuracy and losses over epochs, one color per run; `metric` is the accuracy
    that the search went by.

    `runs` maps a name to epoch records with `epoch`, `train_loss`, and, where validation
    images were held out, `validation_loss` and `metric` (else None or NaN).  `target` is
    drawn as a line.
    """
    figure = canvas(3.3)
    accuracy, loss = figure.subplots(1, 2)
    for (name, records), color in zip(runs.items(), CYCLE, strict=False):
        _curve(accuracy, records, metric, color=color, label=name)
        _curve(loss, records, "train_loss", color=color, label=f"{name}, training")
        _curve(loss, records, "validation_loss", color=color, ls="--", label=f"{name}, validation")
    if target is not None:
        accuracy.axhline(target, color=INK, lw=1, ls=":", label=f"target {target:.1%}")
    percent_scale(accuracy)
    accuracy.set(
        xlabel="epoch", title=f"{metric.replace('_', ' ').capitalize()} on validation images"
    )
    loss.set(xlabel="epoch", title="Cross-entropy loss")
    for axes in (accuracy, loss):
        # Below, where no curve runs.
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def _curve(axes: Axes, records: History, key: str, **kwargs: Any) -> None:
    known = [r for r in records if r.get(key) is not None and math.isfinite(r[key])]
    points = [(r["epoch"], r[key]) for r in known]
    if points:
        marker = "o" if len(points) < 3 else None
        axes.plot(*zip(*points, strict=True), marker=marker, ms=4, **kwargs)


@styled
def figure_confusion_matrix(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Rows are true classes, columns predicted ones; color is the share of the row."""
    count = len(classes)
    side = min(6.4, max(3.6, 1.6 + 0.45 * count))
    figure = canvas(side, side + 0.9)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_xticks(range(count), classes)
    if max(map(len, classes)) > 3:
        axes.tick_params(axis="x", rotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), classes)
    if count <= 20:
        for row, column in np.argwhere(matrix > 0):
            axes.text(
                column, row, f"{matrix[row, column]}", ha="center", va="center", fontsize=7.5,
                color="white" if share[row, column] > 0.55 else INK,
            )  # fmt: skip
    bar = figure.colorbar(image, shrink=0.7, format=PercentFormatter(1, decimals=0))
    bar.outline.set_visible(False)
    bar.set_label("share of the true class")
    return figure


@styled
def figure_class_accuracy(classes: Sequence[str], accuracies: Shares) -> Figure:
    """Accuracy of each class, best first, with the mean as a line."""
    figure = canvas(0.9 + 0.24 * len(classes))
    axes = figure.subplots()
    order = np.argsort(accuracies)
    values = np.asarray(accuracies)[order]
    axes.barh([classes[i] for i in order], values, color=BLUE, height=0.7)
    for row, value in enumerate(values):
        axes.text(1.1, row, f"{value:.1%}", ha="right", va="center", fontsize=8)
    axes.axvline(float(values.mean()), color=INK, lw=1, ls=":")
    axes.set(xlabel="accuracy (dotted: mean of the classes)", xlim=(0, 1.1))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure
