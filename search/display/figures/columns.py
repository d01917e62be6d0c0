"""What stands in the picture of a network: a column a block, a box a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import accumulate, groupby

from search.analysis.graph import CONVOLUTIONS
from search.analysis.table import LayerRow, analyze
from search.analysis.traced import TracedModule
from search.networks.architecture import BLOCK_NAMES, Architecture, Block, Layer, Output, Unit
from search.networks.network import Network

_TALLEST, _WIDEST = 24, 7  # of a module: boxes in a column, and columns


@dataclass(frozen=True)
class Box:
    """A layer; `kind` says its color."""

    kind: str
    text: str


@dataclass(frozen=True)
class Group:
    """Boxes that come `times` times in a row, with a shortcut around each time."""

    boxes: tuple[Box, ...]
    times: int = 1
    residual: bool = False


@dataclass(frozen=True)
class Column:
    """A block under its name, and what is said of it."""

    name: str
    caption: str
    groups: Sequence[Group]

    @property
    def height(self) -> int:
        """In boxes."""
        return sum(len(group.boxes) for group in self.groups)


@singledispatch
def columns(network: Network) -> list[Column]:
    """What is drawn of `network`, from left to right."""
    raise NotImplementedError(type(network))


@singledispatch
def growth(network: Network) -> list[tuple[str, int]]:
    """For each layer that moves the receptive field, the block that it stands in, and the
    field's smaller side after it."""
    raise NotImplementedError(type(network))


# --- of the generator's networks --------------------------------------------------------


@columns.register
def _(network: Architecture) -> list[Column]:
    captions = _captions(network)
    blocks = [Column(b.name, captions[b.name], _groups(b)) for b in network.blocks]
    output = Group(_output_boxes(network.output))
    return [*blocks, Column("O", f"{network.classes} classes", (output,))]


@growth.register
def _(network: Architecture) -> list[tuple[str, int]]:
    rows = _convolutions(network)
    return [(row.block, int(min(span or 0 for span in row.r_out))) for row in rows]


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
    return [row for row in layers if row.block in BLOCK_NAMES and row.kind != "gate"]


def _groups(block: Block) -> tuple[Group, ...]:
    units = tuple(
        Group(_unit_boxes(unit), len(list(same)), unit.residual)
        for unit, same in groupby(block.units)
    )
    return (*units, *(Group((_layer_box(layer),)) for layer in block.transition))


def _unit_boxes(unit: Unit) -> tuple[Box, ...]:
    layers = tuple(_layer_box(layer) for layer in unit.layers)
    if not unit.squeeze_excite:
        return layers
    return (*layers, Box("gate", f"gate, {unit.squeeze_excite} hidden"))


def _layer_box(layer: Layer) -> Box:
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
    return Box(kind, text)


def _output_boxes(output: Output) -> tuple[Box, ...]:
    pooling = (
        f"average {output.pool_kernel}×{output.pool_kernel}"
        if output.pool_kernel
        else "global average"
    )
    return (
        Box("output", pooling),
        Box("output", f"{output.classifier}, {output.classes} classes"),
    )


# --- of a module, which tells no blocks: a column for each size that the map takes --------


@columns.register
def _(network: TracedModule) -> list[Column]:
    stages = _stages(network)
    shown = [_column(rows) for rows in stages[:_WIDEST]]
    left = sum(map(len, stages[_WIDEST:]))
    return [*shown, Column("…", f"{left} more", (Group((Box("other", "…"),)),))] if left else shown


@growth.register
def _(network: TracedModule) -> list[tuple[str, int]]:
    axes = len(network.input) - 1
    every = (row for rows in _stages(network) for row in rows)
    rows = [row for row in every if sum(map(bool, row.r_out)) == axes]
    # What a shortcut gives has seen less than what it joins.
    fields = accumulate(map(_field, rows), max)
    return [(_sides(row.n_out), int(field)) for row, field in zip(rows, fields, strict=True)]


def _stages(network: TracedModule) -> list[list[LayerRow]]:
    """The layers on maps, by the size that they leave; those on one cell read global averages."""
    rows = [row for row in network.analysis.layers if math.prod(row.n_out) > 1]
    return [list(same) for _, same in groupby(rows, key=lambda row: row.n_out)]


def _column(rows: Sequence[LayerRow]) -> Column:
    groups = [Group((box,), len(list(same))) for box, same in groupby(map(_row_box, rows))]
    if len(groups) > _TALLEST:
        rest = Group((Box("other", f"and {len(groups) - _TALLEST + 1} more"),))
        groups = [*groups[: _TALLEST - 1], rest]
    field = max(map(_field, rows))
    seen = "sees all" if math.isinf(field) else f"RF {field}"
    return Column(_sides(rows[-1].n_out), seen, groups)


def _field(row: LayerRow) -> float:
    """The smaller side of what the layer has seen; infinite where that is everything."""
    return min(side or math.inf for side in row.r_out)


def _row_box(row: LayerRow) -> Box:
    shown, kernel = row.window, _sides(row.window.kernel)
    if row.kind not in CONVOLUTIONS:
        return Box("other", f"{row.kind} {kernel}" if max(shown.kernel) > 1 else row.kind)
    stride, dilation = max(shown.stride), max(shown.dilation)
    kind = "downsampling" if stride > 1 else "dense" if row.kind == "conv" else row.kind
    steps = (f", s{stride}" if stride > 1 else "") + (f", d{dilation}" if dilation > 1 else "")
    return Box(kind, f"{kernel}{steps}")


def _sides(values: Sequence[int]) -> str:
    return "×".join(map(str, values))
