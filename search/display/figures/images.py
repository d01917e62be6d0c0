"""Figures of a data set: classes, pixels, samples, mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from search.data.images import is_gray
from search.display.figures.style import (
    BLUE,
    CYCLE,
    DARK_RED,
    GREEN,
    INK,
    VERMILION,
    WIDTH,
    Integers,
    Pixels,
    Shares,
    canvas,
    styled,
)


@styled
def figure_misclassified(
    images: Pixels,
    true: Integers,
    predicted: Integers,
    classes: Sequence[str],
    confidence: Shares | None = None,
) -> Figure:
    """Images (N, H, W, 3) over their true class and the class they were taken for.

    With no image the figure says so.
    """
    if not len(images):
        figure = canvas(1.2)
        figure.text(0.5, 0.5, "Every image was classified correctly.", ha="center", va="center")
        return figure
    columns = 5  # as wide as their captions
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    figure = canvas(WIDTH / columns * 1.2 * len(rows))
    axes = figure.subplots()
    across, down = _mosaic(axes, rows, columns, gaps=(0.34, 0.12))
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


@styled
def figure_class_balance(counts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> Figure:
    """Images per class, one panel per part of the data (training, validation, test)."""
    figure = canvas(0.9 + 0.21 * len(classes))
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, (part, numbers), color in zip(panels, counts.items(), CYCLE, strict=False):
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
    if is_gray(images):
        return [("gray", INK, images[..., 0])]
    red, green, blue = (images[..., channel] for channel in range(3))
    return [("red", VERMILION, red), ("green", GREEN, green), ("blue", BLUE, blue)]


@styled
def figure_samples(
    images: Pixels, labels: Integers, classes: Sequence[str], per_class: int = 10
) -> Figure:
    """The first `per_class` images (N, H, W, 3) of each class, one row per class."""
    of = np.asarray(labels)
    rows = [images[np.flatnonzero(of == label)[:per_class]] for label in range(len(classes))]
    figure = canvas(0.1 + 0.88 * WIDTH / per_class * len(classes))
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
