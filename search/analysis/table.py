"""The table of a network, row by row, and its totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple

from search.analysis.facts import Facts
from search.analysis.graph import (
    FLOAT32_BYTES,
    Graph,
    Reaches,
    Structure,
    Window,
    image_reaches,
    peak_bytes,
    widest_last,
)
from search.analysis.graph_memory import graph_memory
from search.analysis.lowering import lower
from search.analysis.memory import Memory, memory
from search.networks.architecture import Architecture
from search.networks.network import Network


class LayerRow(NamedTuple):
    """One row of the table; spatial values have one entry per axis, None for the whole."""

    name: str
    kind: str
    block: str
    window: Window
    n_in: tuple[int, ...]
    n_out: tuple[int, ...]
    r_in: tuple[int | None, ...]
    r_out: tuple[int | None, ...]
    j_in: tuple[int | float | None, ...]
    j_out: tuple[int | float | None, ...]
    parameters: int
    macs: int
    square: bool

    def to_json(self) -> dict[str, Any]:
        """One entry of `layers`: scalars where the axes cannot differ."""

        def spatial(values: Sequence[Any]) -> Any:
            return values[0] if self.square and len(set(values)) == 1 else list(values)

        padding = [b if b == a else [b, a] for b, a in self.window.padding]
        return {
            "name": self.name,
            "kind": self.kind,
            "kernel": spatial(self.window.kernel),
            "padding": padding[0] if self.square else padding,
            "stride": spatial(self.window.stride),
            "dilation": spatial(self.window.dilation),
            "groups": self.window.groups,
            "n_in": spatial(self.n_in),
            "n_out": spatial(self.n_out),
            "r_in": spatial(self.r_in),
            "r_out": spatial(self.r_out),
            "j_in": spatial(self.j_in),
            "j_out": spatial(self.j_out),
            "parameters": self.parameters,
            "macs": self.macs,
        }


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that arithmetic says about a network.

    Spatial tuples have one entry per axis (height, width), None where a unit sees the
    whole image other than by global pooling; `center` is the middle of what the first unit
    sees, in pixels; `pixels_seen` leaves out the gaps in the receptive field.
    `activation_bytes` are of float32, `memory` is that of a microcontroller in int8.
    """

    receptive_field: tuple[int | None, ...]
    jump: tuple[int | float | None, ...]
    center: tuple[float | None, ...]
    pixels_seen: tuple[int | None, ...]
    parameters: int
    macs: int
    activation_bytes: int
    feature_map: tuple[int, ...]
    structure: Structure
    layers: tuple[LayerRow, ...]
    memory: Memory
    notes: tuple[str, ...] = ()

    @property
    def smaller_field(self) -> int | None:
        """The receptive field on its smaller axis; None where a unit sees all of an axis."""
        sides = [side for side in self.receptive_field if side is not None]
        return min(sides) if sides and len(sides) == len(self.receptive_field) else None

    def memory_json(self) -> dict[str, Any]:
        """Bytes of weights and feature maps in float32, and of a microcontroller in int8."""
        small = self.memory
        return {
            "float32": {
                "parameter_bytes": FLOAT32_BYTES * self.parameters,
                "activation_bytes": self.activation_bytes,
            },
            "int8": {
                "flash_bytes": small.flash,
                "arena_bytes": small.arena,
                "arena_head": small.head,
                "arena_tail": small.tail,
                "lacking": list(small.lacking),
            },
        }


@singledispatch
def analyze(target: Network | Graph) -> Analysis:
    """Table and counts of a network.

    Raises:
        ArchitectureError: a window does not fit on the map that it reads.
    """
    raise NotImplementedError(type(target))


def facts(network: Network) -> Facts | Analysis:
    """The same as far as limits ask, and quickly, without the table."""
    return Facts(network) if isinstance(network, Architecture) else analyze(network)


@analyze.register
def _(target: Architecture) -> Analysis:
    return _analysis(lower(target), memory(target))


@analyze.register
def _(target: Graph) -> Analysis:
    return _analysis(target, graph_memory(target))


def _analysis(graph: Graph, memory: Memory) -> Analysis:
    reaches = image_reaches(graph)
    last = widest_last(graph, reaches)
    return Analysis(
        receptive_field=_each(last, "span", nothing=0),
        jump=_each(last, "jump"),
        center=_each(last, "center"),
        pixels_seen=_each(last, "seen", nothing=0),
        parameters=graph.parameters,
        macs=sum(node.macs for node in graph.nodes),
        activation_bytes=peak_bytes(graph),
        feature_map=graph.nodes[graph.last[-1]].size,
        structure=graph.structure,
        layers=tuple(
            _row(graph, index, reaches) for index, node in enumerate(graph.nodes) if node.kind
        ),
        memory=memory,
        notes=graph.notes,
    )


def _each(reaches: Reaches, attribute: str, nothing: int | None = None) -> tuple[Any, ...]:
    """Per axis; `nothing` is what is said of units that see none of it."""
    return tuple(
        None if reach is None else nothing if reach.empty else getattr(reach, attribute)
        for reach in reaches
    )


def _row(graph: Graph, index: int, reaches: list[Reaches]) -> LayerRow:
    node = graph.nodes[index]
    source = node.inputs[0]
    return LayerRow(
        name=node.name,
        kind=node.kind,
        block=node.block,
        window=node.window or Window.cell(len(node.size)),
        n_in=graph.nodes[source].size,
        n_out=node.size,
        r_in=_each(reaches[source], "span"),
        r_out=_each(reaches[index], "span"),
        j_in=_each(reaches[source], "jump"),
        j_out=_each(reaches[index], "jump"),
        parameters=node.parameters,
        macs=node.macs,
        square=graph.square,
    )
