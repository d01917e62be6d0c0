"""An architecture as a graph."""

from __future__ import annotations

import math

from search.analysis.chains import (
    Chains,
    classifier_parameters,
    gate_parameters,
    gate_weights,
    layer_parameters,
    layer_weights,
    pooled,
    side_after,
)
from search.analysis.graph import CONVOLUTIONS, Graph, Node, Window, count_of
from search.analysis.reach import FIRST, IDENTITY, NOTHING, window
from search.networks.architecture import Architecture, ArchitectureError, Layer, Unit


def lower(architecture: Architecture) -> Graph:
    """The graph of an architecture: a row per convolution, gate and classifier."""
    channels, height, width = architecture.input
    nodes = [Node("input", "", (), (), channels, (height, width))]
    for block in architecture.blocks:
        for unit in block.units:
            _lower_unit(nodes, unit, block.name)
        for layer in block.transition:
            _lower_layer(nodes, layer, block.name)
    last = len(nodes) - 1
    _lower_output(nodes, architecture)
    whole = Chains(architecture)
    return Graph(tuple(nodes), (last,), whole.parameters, whole.structure, square=True)


def _lower_unit(nodes: list[Node], unit: Unit, block: str) -> None:
    start = len(nodes) - 1
    for layer in unit.layers:
        _lower_layer(nodes, layer, block)
    before = nodes[-1]
    if unit.squeeze_excite:
        _lower_gate(nodes, unit, block)
    if unit.residual:
        both = (len(nodes) - 1, start)
        reads = ((IDENTITY, IDENTITY),) * 2
        nodes.append(Node("", "", both, reads, before.channels, before.size, block=block))


def _lower_gate(nodes: list[Node], unit: Unit, block: str) -> None:
    """Global averages, hidden channels, a factor per channel, and the product."""
    cell, same = (1, 1), (IDENTITY, IDENTITY)
    gated, last = nodes[-1], len(nodes) - 1
    name = f"GATE{count_of(nodes, 'gate') + 1}"
    weights, parameters = gate_weights(unit), gate_parameters(unit)
    nodes += [
        Node("", "", (last,), ((NOTHING, NOTHING),), gated.channels, cell),
        Node("", "", (last + 1,), (same,), unit.squeeze_excite, cell),
        Node(
            name,
            "gate",
            (last + 2,),
            (same,),
            gated.channels,
            cell,
            parameters=parameters,
            macs=weights,
            block=block,
        ),
        Node(
            "",
            "",
            (last, last + 3),
            (same, (FIRST, FIRST)),
            gated.channels,
            gated.size,
            block=block,
        ),
    ]


def _lower_layer(nodes: list[Node], layer: Layer, block: str) -> None:
    name = f"CONV{count_of(nodes, *CONVOLUTIONS) + 1}"
    try:
        size = tuple(side_after(layer, side) for side in nodes[-1].size)
    except ArchitectureError as error:
        raise ArchitectureError(f"{name} in {block}: {error}") from None
    reads = window(layer.kernel, layer.stride, layer.padding, layer.dilation)
    nodes.append(
        Node(
            name,
            "depthwise" if layer.depthwise else "pointwise" if layer.pointwise else "conv",
            (len(nodes) - 1,),
            ((reads, reads),),
            layer.out_channels,
            size,
            Window(
                (layer.kernel,) * 2,
                (layer.stride,) * 2,
                ((layer.padding,) * 2,) * 2,
                (layer.dilation,) * 2,
                layer.groups,
            ),
            layer_parameters(layer),
            layer_weights(layer) * math.prod(size),
            block,
        )
    )


def _lower_output(nodes: list[Node], architecture: Architecture) -> None:
    """The pooled cell and its classifier; neither adds to the receptive field."""
    output = architecture.output
    cells = pooled(architecture, nodes[-1].size)
    nothing = ((NOTHING, NOTHING),)
    nodes.append(Node("", "", (len(nodes) - 1,), nothing, architecture.features, cells, block="O"))
    nodes.append(
        Node(
            "CLASSIFIER",
            output.classifier,
            (len(nodes) - 1,),
            nothing,
            output.classes,
            cells,
            parameters=classifier_parameters(architecture),
            macs=output.classes * architecture.features * math.prod(cells),
            block="O",
        )
    )
