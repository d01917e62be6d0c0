"""Pictures of one network: its layers, block by block, and its receptive field."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from search.analysis.table import LayerRow, analyze
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
from search.networks.architecture import Architecture, Block, Layer, Output, Unit

_KINDS = {  # kind of a box -> its color, and its name in the legend
    "dense": ("#A9D6F5", "dense convolution"),
    "depthwise": ("#8FD9C0", "depthwise convolution"),
    "pointwise": ("#F6DC7C", "1×1 convolution"),
    "downsampling": ("#F3B08F", "stride-2 convolution"),
    "gate": ("#E8BFD6", "squeeze-and-excite"),
    "output": ("#DDDDDD", "output"),
}
_BLOCK_COLORS = {"C1": BLUE, "C2": GREEN, "C3": ORANGE, "C4": VERMILION}
_WIDTH = 0.76  # of a box, in distances between columns
_PITCH = 1.3  # from one box to the next, in heights of a box


@dataclass(frozen=True)
class _Box:
    kind: str
    text: str


@dataclass(frozen=True)
class _Group:
    """Boxes that come `times` times in a row, with a shortcut around each time."""

    boxes: tuple[_Box, ...]
    times: int = 1
    residual: bool = False


@styled
def figure_architecture(architecture: Architecture) -> Figure:
    """One column per block, layers from top to bottom, with map sizes and receptive fields.

    Units that repeat are drawn once; an arrow on the left is a residual shortcut.
    """
    captions = _captions(architecture)
    columns: dict[str, tuple[_Group, ...]] = {
        **{block.name: _groups(block) for block in architecture.blocks},
        "O": (_Group(_output_boxes(architecture.output)),),
    }
    tallest = max(sum(len(group.boxes) for group in groups) for groups in columns.values())
    figure = canvas(1.3 + 0.36 * tallest, 9.0)
    axes = figure.subplots()
    axes.set(xlim=(-0.1, len(columns)), ylim=(tallest * _PITCH, -2.2))
    axes.set_axis_off()
    for x, (name, groups) in enumerate(columns.items()):
        axes.text(x + _WIDTH / 2, -1.75, name, ha="center", va="center", fontsize=12, weight="bold")
        axes.text(
            x + _WIDTH / 2,
            -0.75,
            captions[name],
            ha="center",
            va="center",
            fontsize=8.5,
            color="#555555",
        )
        _draw_column(axes, x, groups)
        if x:
            _arrow(axes, (x - 0.32, -1.75), (x + 0.12, -1.75))
    used = {box.kind for groups in columns.values() for group in groups for box in group.boxes}
    shown = [key for key in _KINDS if key in used]
    figure.legend(
        [Rectangle((0, 0), 1, 1, color=_KINDS[key][0]) for key in shown],
        [_KINDS[key][1] for key in shown],
        loc="outside lower center", ncols=len(shown), fontsize=8, handlelength=1, handleheight=1,
    )  # fmt: skip
    return figure


def _captions(architecture: Architecture) -> dict[str, str]:
    rows = _convolutions(architecture)
    captions = {"O": f"{architecture.output.classes} classes"}
    for block in architecture.blocks:
        own = [row for row in rows if row.block == block.name]
        before, after = ("×".join(map(str, n)) for n in (own[0].n_in, own[-1].n_out))
        size = before if before == after else f"{before} → {after}"
        captions[block.name] = f"{size}, RF {own[-1].r_out[0]}"
    return captions


def _convolutions(architecture: Architecture) -> list[LayerRow]:
    """The layers that move the receptive field: gates and the output read global averages."""
    layers = analyze(architecture).layers
    return [row for row in layers if row.block in _BLOCK_COLORS and row.kind != "gate"]


def _draw_column(axes: Axes, x: float, groups: tuple[_Group, ...]) -> None:
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


def _draw_box(axes: Axes, x: float, y: float, box: _Box) -> None:
    color = _KINDS[box.kind][0]
    outline = "round,pad=0,rounding_size=0.05"
    axes.add_patch(
        FancyBboxPatch((x, y), _WIDTH, 1, boxstyle=outline, fc=color, lw=0, mutation_aspect=3)
    )
    axes.text(x + _WIDTH / 2, y + 0.52, box.text, ha="center", va="center", fontsize=8)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": GRAY, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


def _groups(block: Block) -> tuple[_Group, ...]:
    units = tuple(
        _Group(_unit_boxes(unit), len(list(same)), unit.residual)
        for unit, same in groupby(block.units)
    )
    return (*units, *(_Group((_layer_box(layer),)) for layer in block.transition))


def _unit_boxes(unit: Unit) -> tuple[_Box, ...]:
    layers = tuple(_layer_box(layer) for layer in unit.layers)
    if not unit.squeeze_excite:
        return layers
    return (*layers, _Box("gate", f"gate, {unit.squeeze_excite} hidden"))


def _layer_box(layer: Layer) -> _Box:
    kind = (
        "downsampling" if layer.stride > 1
        else "depthwise" if layer.depthwise
        else "pointwise" if layer.pointwise
        else "dense"
    )  # fmt: skip
    text = f"{layer.kernel}×{layer.kernel}, {layer.in_channels}→{layer.out_channels}"
    if layer.stride > 1 and layer.depthwise:
        text += " dw"
    if layer.stride > 1:
        text += f", s{layer.stride}"
    if layer.dilation > 1:
        text += f", d{layer.dilation}"
    return _Box(kind, text)


def _output_boxes(output: Output) -> tuple[_Box, ...]:
    pooling = (
        f"average {output.pool_kernel}×{output.pool_kernel}"
        if output.pool_kernel
        else "global average"
    )
    return (
        _Box("output", pooling),
        _Box("output", f"{output.classifier}, {output.classes} classes"),
    )


@styled
def figure_receptive_field(
    image: Pixels, architecture: Architecture, limit: float | None = None
) -> Figure:
    """Left, the receptive field at the end of each block, around the center of an image
    (H, W, 3); right, its growth layer by layer and the `limit` that it must exceed.

    What reaches beyond the image sees padding.
    """
    rows = _convolutions(architecture)
    spans = [int(min(span or 0 for span in row.r_out)) for row in rows]
    fields = {row.block: span for row, span in zip(rows, spans, strict=True)}
    figure = canvas(3.5)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.05))
    _draw_fields(left, image, fields)
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
    for name, size in fields.items():
        label = f"{name}: {size}×{size}"
        axes.add_patch(
            Rectangle((-size / 2, -size / 2), size, size, fill=False, lw=2.2, label=label,
                      ec=_BLOCK_COLORS[name])
        )  # fmt: skip
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, fontsize=8)


def _draw_growth(axes: Axes, growth: list[int], limit: float | None) -> None:
    axes.step(range(len(growth)), growth, where="mid", color=BLUE)
    axes.plot(len(growth) - 1, growth[-1], "o", color=BLUE)
    axes.annotate(
        f"{growth[-1]}", (len(growth) - 1, growth[-1]), (0, 5), textcoords="offset points",
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
        xlabel="convolutions passed", title="Receptive field (pixels)", ylim=(0, growth[-1] * 1.12)
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
