"""Figures of reports and dashboards: plain values in, a matplotlib `Figure` out.

Nothing touches pyplot's global state.  One style and one palette (Okabe and Ito, 2008, told
apart by color-blind readers) hold for all of them; `search.diagram` has those of networks.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from threading import RLock
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, GRAY, INK = "#56B4E9", "#CC79A7", "#8C8C8C", "#1A1A1A"
DARK_RED = "#A84300"  # vermilion that is legible as small text
_CYCLE = (BLUE, ORANGE, GREEN, PURPLE)
WIDTH = 7.5  # inches: the text width of the report
DPI = 160

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: figures agree across machines
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": GRAY,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.parse_math": False,  # the name of a class is no formula
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}

Pixels = NDArray[np.uint8]
Integers = Sequence[int] | NDArray[np.int64]
Shares = Sequence[float] | NDArray[np.float64]
History = Sequence[Mapping[str, Any]]
P = ParamSpec("P")
_LOCK = RLock()  # rcParams are one table for the whole process


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws in `STYLE`."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _LOCK, matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with _LOCK, matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def canvas(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, sizes in inches."""
    return Figure(figsize=(width, height), dpi=DPI)


# --------------------------------------------------------------------------- training


@styled
def figure_learning_curves(runs: Mapping[str, History], target: float | None = None) -> Figure:
    """Validation accuracy and losses over epochs, one color per run.

    `runs` maps a name to epoch records with `epoch`, `train_loss`, and, where validation
    images were held out, `validation_loss` and `accuracy` (else None or NaN).  `target` is
    drawn as a line.
    """
    figure = canvas(2.9)
    accuracy, loss = figure.subplots(1, 2)
    for (name, records), color in zip(runs.items(), _CYCLE, strict=False):
        _curve(accuracy, records, "accuracy", color=color, label=name)
        _curve(loss, records, "train_loss", color=color, label=f"{name}, training")
        _curve(loss, records, "validation_loss", color=color, ls="--", label=f"{name}, validation")
    if target is not None:
        low, high = accuracy.get_ylim()
        # Holds the target, with room for its label.
        accuracy.set_ylim(min(low, target), max(high, target + 0.1 * (target - low)))
        accuracy.axhline(target, color=INK, lw=1, ls=":")
        accuracy.annotate(
            f"target {target:.1%}", (0, target), (2, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    _percent_scale(accuracy)
    accuracy.set(xlabel="epoch", title="Accuracy on validation images")
    loss.set(xlabel="epoch", title="Cross-entropy loss")
    loss.legend(fontsize=8)
    if len(runs) > 1 and accuracy.lines:
        accuracy.legend(fontsize=8, loc="lower right")
    for axes in (accuracy, loss):
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


@styled
def figure_misclassified(
    images: Pixels,
    true: Integers,
    predicted: Integers,
    classes: Sequence[str],
    confidence: Shares | None = None,
    columns: int = 7,
) -> Figure:
    """Images (N, H, W, 3) over their true class and the class they were taken for.

    With no image the figure says so.
    """
    if not len(images):
        figure = canvas(1.2)
        figure.text(0.5, 0.5, "Every image was classified correctly.", ha="center", va="center")
        return figure
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    figure = canvas(WIDTH / columns * 1.32 * len(rows))
    axes = figure.subplots()
    across, down = _mosaic(axes, rows, columns, gaps=(0.42, 0.12))
    for i, (label, taken) in enumerate(zip(true, predicted, strict=True)):
        sure = "" if confidence is None else f" {confidence[i]:.0%}"
        below = i % columns + across / 2, i // columns + down
        _caption(axes, below, 0, _short(classes[label]), INK)
        _caption(axes, below, 1, f"→ {_short(classes[taken])}{sure}", DARK_RED)
    return figure


def _mosaic(
    axes: Axes, rows: Sequence[Pixels], columns: int, gaps: tuple[float, float] = (0.08, 0.08)
) -> tuple[float, float]:
    """Draws images (N, H, W, 3) per row as one picture: far faster than an axes for each.

    The image in row r and column c begins at (c, r); answers with the width and height that
    one takes of its cell.  `gaps` are between rows and columns, in sizes of an image.
    """
    height, width = rows[0].shape[1:3]
    cell = height + round(gaps[0] * height), width + round(gaps[1] * width)
    picture = np.full((len(rows) * cell[0], columns * cell[1], 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row[:columns]):
            top, left = r * cell[0], c * cell[1]
            picture[top : top + height, left : left + width] = image
    axes.imshow(
        picture, interpolation="nearest", extent=(0, columns, len(rows), 0),
        aspect=cell[0] / cell[1],
    )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return width / cell[1], height / cell[0]


def _short(name: str) -> str:
    return name if len(name) <= 12 else name[:11] + "…"


def _caption(axes: Axes, below: tuple[float, float], line: int, text: str, color: str) -> None:
    axes.annotate(
        text, below, (0, -3 - 10 * line), textcoords="offset points", ha="center", va="top",
        fontsize=7, color=color, in_layout=False,
    )  # fmt: skip


# ------------------------------------------------------------------------------- data


@styled
def figure_class_balance(counts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> Figure:
    """Images per class, one panel per part of the data (training, validation, test)."""
    figure = canvas(0.9 + 0.21 * len(classes))
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, (part, numbers), color in zip(panels, counts.items(), _CYCLE, strict=False):
        bars = axes.barh(classes, numbers, color=color, height=0.7)
        axes.bar_label(bars, [f"{n:,}" for n in numbers], padding=2, fontsize=7.5)
        axes.set(title=f"{part} ({sum(numbers):,})", xlim=(0, 1.3 * max(1, *numbers)))
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].invert_yaxis()
    return figure


@styled
def figure_pixel_histogram(images: Pixels) -> Figure:
    """How often pixel values occur, in bins of eight, per color channel; dotted: the means."""
    figure = canvas(2.1)
    axes = figure.subplots()
    for name, color, values in _channels(images):
        counts, edges = np.histogram(values, bins=32, range=(0, 256))
        axes.stairs(counts / values.size, edges, color=color, lw=1.5, label=name)
        axes.axvline(float(values.mean()), color=color, lw=1, ls=":")
    axes.set(xlabel="pixel value", xlim=(0, 256), ylabel="share of pixels")
    axes.set_xticks(range(0, 257, 32))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=8)
    return figure


def _channels(images: Pixels) -> list[tuple[str, str, Pixels]]:
    red, green, blue = (images[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return [("gray", INK, red)]
    return [("red", VERMILION, red), ("green", GREEN, green), ("blue", BLUE, blue)]


@styled
def figure_samples(
    images: Pixels, labels: Integers, classes: Sequence[str], per_class: int = 10
) -> Figure:
    """The first `per_class` images (N, H, W, 3) of each class, one row per class."""
    of = np.asarray(labels)
    rows = [images[np.flatnonzero(of == label)[:per_class]] for label in range(len(classes))]
    figure = canvas(0.1 + 0.66 * len(classes))
    axes = figure.subplots()
    _, down = _mosaic(axes, rows, per_class)
    axes.set_yticks([row + down / 2 for row in range(len(rows))], classes)
    return figure


@styled
def figure_augmentations(originals: Pixels, versions: Mapping[str, Pixels]) -> Figure:
    """One row per image (N, H, W, 3): the original, then what each augmentation made of it."""
    columns = {"original": originals, **versions}
    rows = list(np.stack(list(columns.values()), axis=1))
    figure = canvas(0.4 + 1.15 * len(originals), min(WIDTH, 1.2 * len(columns) + 0.2))
    axes = figure.subplots()
    across, _ = _mosaic(axes, rows, len(columns))
    axes.set_xticks([column + across / 2 for column in range(len(columns))], columns, fontsize=8)
    axes.xaxis.tick_top()
    return figure


# ----------------------------------------------------------------------------- search


@styled
def figure_funnel(stages: Mapping[str, int], rejected: Mapping[str, int]) -> Figure:
    """Left, how many candidates reached each stage; right, how many each rule rejected."""
    bars = max(len(stages), len(rejected), 1)
    figure = canvas(0.8 + 0.32 * bars)
    left, right = figure.subplots(1, 2)
    _counted_bars(left, stages, BLUE, "Candidates", bars)
    _counted_bars(right, rejected or {"none": 0}, VERMILION, "Rejections by rule", bars)
    return figure


def _counted_bars(axes: Axes, counts: Mapping[str, int], color: str, title: str, rows: int) -> None:
    bars = axes.barh(
        [name.replace("_", " ") for name in counts], list(counts.values()), color=color, height=0.68
    )
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
) -> Figure:
    """Accuracy of every trial in order, and the best so far among those that finished."""
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
    axes.set(xlabel="trial", ylabel="validation accuracy", xlim=(x.min() - 0.6, x.max() + 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _percent_scale(axes)
    axes.legend(fontsize=8)
    return figure


def _percent_scale(axes: Axes) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.005), min(high, 1.005))  # margins beyond 100 % mislead
    axes.yaxis.set_major_formatter(PercentFormatter(1))


@styled
def figure_importance(importance: Mapping[str, float], most: int = 15) -> Figure:
    """Share of the variance of accuracy that each hyperparameter explains, largest first."""
    top = sorted(importance.items(), key=lambda item: -item[1])[:most]
    figure = canvas(0.8 + 0.24 * len(top))
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in top], [value for _, value in top], color=BLUE, height=0.7)
    axes.bar_label(bars, [f"{value:.0%}" for _, value in top], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="importance", xlim=(0, 1.15 * max(value for _, value in top) + 1e-9))
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
) -> Figure:
    """Accuracy over each cost (parameters, MACs): every trial, the Pareto front, the winner.

    `winner` is an index into the trials; what a limit forbids is shaded.
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
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    _percent_scale(panels[0])
    panels[0].set_ylabel("validation accuracy")
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


def _thousands(value: float, _: object = None) -> str:
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
