"""Draws the figures of the documentation: `python -m docs.make_figures`.

The reaches are those that the checker computes, the shares those of results/sampling.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.analysis.reach import Reach, compose, unite, window
from search.display.figures.style import BLUE, GRAY, GREEN, INK, VERMILION, WIDTH, png, styled

HERE = Path(__file__).parent
SIZE = 64  # units of every map; what is drawn lies well inside
Row = tuple[str, Reach, str]


def chain() -> list[Row]:
    """3x3, 3x3 of stride 2, 3x3 of dilation 2: what unit 0 of each sees of the image."""
    first = window(3, before=1)
    second = compose(window(3, stride=2, before=1), first, SIZE)
    third = compose(window(3, before=2, dilation=2), second, SIZE)
    return [("3x3", first, BLUE), ("3x3, stride 2", second, BLUE), ("3x3, dilation 2", third, BLUE)]


def misaligned() -> list[Row]:
    """Two branches of which neither holds the other, and their sum."""
    left, right = window(13, before=14), window(9)
    return [
        ("left branch", left, GREEN),
        ("right branch", right, GREEN),
        ("their sum", unite(left, right, SIZE), BLUE),
    ]


def sparse() -> list[Row]:
    """1x1 of stride 2, twice, then 3x3: most of the span is skipped."""
    first = window(1, stride=2)
    second = compose(window(1, stride=2), first, SIZE)
    third = compose(window(3, before=1), second, SIZE)
    rows = (("1x1, stride 2", first), ("1x1, stride 2", second), ("3x3", third))
    return [(label, reach, BLUE) for label, reach in rows]


@styled
def reaches() -> Figure:
    """The three examples, one above the other, on one axis of the image."""
    examples = {
        "A chain: the field grows by dilation x (kernel - 1) x jump": chain(),
        "Misaligned branches: the union is wider than either": misaligned(),
        "Strided 1x1 convolutions: the span has gaps": sparse(),
    }
    figure = Figure(figsize=(WIDTH, 4.6))
    for axes, (title, rows) in zip(
        figure.subplots(3, 1, sharex=True), examples.items(), strict=True
    ):
        _strips(axes, title, rows)
    axes.set_xlabel("input pixels that unit 0 sees; 0 is the first of the image")
    return figure


def _strips(axes: Axes, title: str, rows: list[Row]) -> None:
    for height, (_, reach, color) in enumerate(rows):
        start, mask = reach.at(0)
        seen = [start + bit for bit in range(mask.bit_length()) if mask >> bit & 1]
        axes.plot([start - 0.5, start + reach.span - 0.5], [height, height], color=GRAY, lw=1)
        axes.bar(seen, 0.6, 0.8, bottom=height - 0.3, color=color)
        note = f"{reach.span}" if reach.seen == reach.span else f"{reach.span} ({reach.seen} seen)"
        axes.text(start + reach.span, height, note, va="center", color=INK)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-15.5, 13.5)
    axes.set_title(title)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)


def legal_shares() -> dict[str, tuple[float, float, float]]:
    """Mean, lowest and highest share of legal slots by strategy, as measured."""
    text = (HERE / "results" / "sampling.md").read_text(encoding="utf-8")
    number = r"(\d+\.\d)"
    row = rf"^\| ([^|]+) \| {number} % \({number}–{number}\) \|"
    found = re.findall(row, text, re.MULTILINE)
    return {name: (float(mean), float(low), float(high)) for name, mean, low, high in found}


@styled
def legal() -> Figure:
    """Share of trials that train a legal network, by what becomes of an illegal one."""
    shares = legal_shares()
    figure = Figure(figsize=(WIDTH, 2.1))
    axes = figure.subplots()
    for height, (mean, low, high) in enumerate(shares.values()):
        axes.barh(height, mean, color=BLUE if height == len(shares) - 1 else GRAY)
        axes.plot([low, high], [height, height], color=VERMILION, lw=2)
        axes.text(max(mean, high) + 1, height, f"{mean} %", va="center")
    axes.set_yticks(range(len(shares)), list(shares))
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xlabel("% of 150 trials that hold a legal network; red: lowest to highest of 5 seeds")
    return figure


PICTURES = {"receptive-field": reaches, "legal-trials": legal}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        path = HERE / "images" / f"{name}.png"
        path.write_bytes(png(draw()))
        print(path, file=sys.stderr)
