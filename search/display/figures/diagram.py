"""Pictures of one network: its layers, block by block, and its receptive field."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from search.display.figures.columns import Box, Group, columns, growth
from search.display.figures.style import (
    BLUE,
    DARK_RED,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    VERMILION,
    Pixels,
    canvas,
    styled,
)
from search.networks.network import Network

_KINDS = {  # kind of a box -> its color, and its name in the legend
    "dense": ("#A9D6F5", "dense convolution"),
    "depthwise": ("#8FD9C0", "depthwise convolution"),
    "pointwise": ("#F6DC7C", "1×1 convolution"),
    "downsampling": ("#F3B08F", "stride-2 convolution"),
    "gate": ("#E8BFD6", "squeeze-and-excite"),
    "output": ("#DDDDDD", "output"),
    "other": ("#DDDDDD", "other layers"),
}
_COLORS = (BLUE, GREEN, ORANGE, VERMILION)  # of blocks, in order
_WIDTH = 0.76  # of a box, in distances between columns
_PITCH = 1.3  # from one box to the next, in heights of a box


@styled
def figure_architecture(network: Network) -> Figure:
    """One column per block, layers from top to bottom, with map sizes and receptive fields.

    Units that repeat are drawn once; an arrow on the left is a residual shortcut.
    """
    drawn = columns(network)
    tallest = max(column.height for column in drawn)
    figure = canvas(1.3 + 0.36 * tallest, 9.0)
    axes = figure.subplots()
    axes.set(xlim=(-0.1, len(drawn)), ylim=(tallest * _PITCH, -2.2))
    axes.set_axis_off()
    for x, column in enumerate(drawn):
        title = {
            "ha": "center",
            "va": "center",
            "fontsize": 12 if len(column.name) <= 2 else 9,
            "weight": "bold",
        }
        axes.text(x + _WIDTH / 2, -1.75, column.name, title)
        axes.text(
            x + _WIDTH / 2,
            -0.75,
            column.caption,
            ha="center",
            va="center",
            fontsize=8.5,
            color="#555555",
        )
        _draw_column(axes, x, column.groups)
        if x:
            _arrow(axes, (x - 0.32, -1.75), (x + 0.12, -1.75))
    used = {box.kind for column in drawn for group in column.groups for box in group.boxes}
    shown = [key for key in _KINDS if key in used]
    figure.legend(
        [Rectangle((0, 0), 1, 1, color=_KINDS[key][0]) for key in shown],
        [_KINDS[key][1] for key in shown],
        loc="outside lower center", ncols=len(shown), fontsize=8, handlelength=1, handleheight=1,
    )  # fmt: skip
    return figure


def _draw_column(axes: Axes, x: float, groups: Sequence[Group]) -> None:
    y = 0.0
    for group in groups:
        top = y
        for box in group.boxes:
            _draw_box(axes, x, y, box)
            y += _PITCH
        bottom = y - _PITCH + 1
        if group.residual:
            side = x - 0.06
            axes.plot([x, side, side], [top + 0.5, top + 0.5, bottom - 0.2], color=GRAY, lw=1.2)
            _arrow(axes, (side, bottom - 0.2), (x, bottom - 0.2))
        if group.times > 1:
            axes.plot([x + _WIDTH + 0.03] * 2, [top, bottom], color=INK, lw=1)
            axes.text(
                x + _WIDTH + 0.045, (top + bottom) / 2, f"×{group.times}", va="center", fontsize=8
            )


def _draw_box(axes: Axes, x: float, y: float, box: Box) -> None:
    color = _KINDS[box.kind][0]
    outline = "round,pad=0,rounding_size=0.05"
    axes.add_patch(
        FancyBboxPatch((x, y), _WIDTH, 1, boxstyle=outline, fc=color, lw=0, mutation_aspect=3)
    )
    axes.text(x + _WIDTH / 2, y + 0.52, box.text, ha="center", va="center", fontsize=8)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": GRAY, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


@styled
def figure_receptive_field(image: Pixels, network: Network, limit: float | None = None) -> Figure:
    """Left, the receptive field at the end of each block, around the center of an image
    (H, W, 3); right, its growth layer by layer and the `limit` that it must exceed.

    What reaches beyond the image sees padding.  There must be layers of which `growth` tells.
    """
    steps = growth(network)
    spans = [span for _, span in steps]
    figure = canvas(3.5)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    _draw_fields(left, image, dict(steps))
    _draw_growth(right, [1, *spans], limit)
    return figure


def _draw_fields(axes: Axes, image: Pixels, fields: dict[str, int]) -> None:
    height, width = image.shape[:2]
    half = max(height, width, *fields.values()) / 2 * 1.06
    edges = (-width / 2, width / 2, height / 2, -height / 2)
    axes.imshow(image, interpolation="nearest", extent=edges)
    axes.set(xlim=(-half, half), ylim=(half, -half), facecolor="#F0F0F0", xticks=[], yticks=[])
    axes.set_title(f"Image of {width}×{height} (gray: padding)")
    axes.spines[:].set_visible(False)
    for color, (name, size) in zip(cycle(_COLORS), fields.items(), strict=False):
        label = f"{name}: {size}×{size}"
        axes.add_patch(
            Rectangle((-size / 2, -size / 2), size, size, fill=False, lw=2.2, label=label,
                      ec=color)
        )  # fmt: skip
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, fontsize=8)


def _draw_growth(axes: Axes, spans: list[int], limit: float | None) -> None:
    axes.step(range(len(spans)), spans, where="mid", color=BLUE)
    axes.plot(len(spans) - 1, spans[-1], "o", color=BLUE)
    axes.annotate(
        f"{spans[-1]}", (len(spans) - 1, spans[-1]), (0, 5), textcoords="offset points",
        ha="center",
    )  # fmt: skip
    if limit is not None:
        axes.axhline(limit, color=DARK_RED, lw=1.2, ls=":")
        axes.annotate(
            f"must exceed {limit:g}", (0, limit), (4, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=8, color=DARK_RED,
        )  # fmt: skip
    axes.grid(axis="y")
    axes.set(
        xlabel="convolutions passed", title="Receptive field (pixels)", ylim=(0, max(spans) * 1.12)
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
