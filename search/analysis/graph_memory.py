"""What a traced network takes on a microcontroller in int8, as far as its operations tell."""

from __future__ import annotations

import math

from search.analysis.device import Convolution, Program, Size
from search.analysis.graph import CONVOLUTIONS, Graph, Node
from search.analysis.memory import Memory, demand_of, joined
from search.analysis.reach import NOTHING

# Of nothing, or folded into the convolution before.
_FREE = frozenset({"native_dropout", "detach", "alias", "clone", "_to_copy", "lift_fresh"})
_NORMALIZATIONS = frozenset(
    {"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"}
)
_FUSED = {"relu": "relu", "hardtanh": "relu6"}


def graph_memory(graph: Graph) -> Memory:
    """What `graph` takes.  An operation that is none of ours counts as a sum of its inputs."""
    program = Program([(0, 0, 0)])
    maps = [0]
    for index in range(1, len(graph.nodes)):
        maps.append(_operation(program, graph, index, maps))
    image, last = graph.nodes[0], graph.nodes[-1]
    if last.kind in CONVOLUTIONS:  # the scores of classes
        program.flat(maps[-1], last.channels * math.prod(last.size))
    return joined(image.channels * math.prod(image.size), [demand_of(program, last.size)])


def _operation(program: Program, graph: Graph, index: int, maps: list[int]) -> int:
    node = graph.nodes[index]
    sources = [maps[index] for index in node.inputs]
    before = graph.nodes[node.inputs[0]]
    shape = (*node.size, node.channels)
    after = _after(node)
    if node.kind in CONVOLUTIONS and node.window:
        window, padding = node.window, tuple(before for before, _ in node.window.padding)
        layer = Convolution(
            before.channels,
            node.channels,
            window.kernel,
            window.stride,
            padding,
            window.dilation,
            window.groups,
            after,
        )
        result, _ = program.convolution(sources[0], before.size, layer)
        return result
    result = _other(program, graph, index, sources, shape)
    for name in after:
        result = program.activation(result, shape, name)
    return result


def _after(node: Node) -> tuple[str, ...]:
    """What follows a node element by element and is not folded into it."""
    free = _FREE | _NORMALIZATIONS if node.kind in CONVOLUTIONS else _FREE
    return tuple(_FUSED.get(name, name) for name in node.operations[1:] if name not in free)


def _other(program: Program, graph: Graph, index: int, sources: list[int], shape: Size) -> int:
    node = graph.nodes[index]
    if node.kind == "linear":
        weights = node.macs // math.prod(node.size)
        return program.linear(sources[0], weights // node.channels, node.channels)
    if node.kind.endswith("pool"):
        kind = "MAX_POOL_2D" if node.kind == "maxpool" else "AVERAGE_POOL_2D"
        return program.add(kind, shape, sources[0])
    if all(reads is NOTHING for reads in node.reads[0]):
        return _mean(program, graph, index, sources[0])
    kind = "MUL" if node.operations[:1] == ("mul",) else "ADD"
    return program.add(kind, shape, *sources)


def _mean(program: Program, graph: Graph, index: int, source: int) -> int:
    node = graph.nodes[index]
    readers = [reader for reader in graph.nodes if index in reader.inputs]
    keep = any(reader.kind != "linear" for reader in readers)
    axes = (2, 1) if set(node.inputs) <= set(graph.last) else (1, 2)
    return program.mean(source, node.channels, axes, keep=keep)
