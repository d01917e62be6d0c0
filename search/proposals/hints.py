"""What would mend a traced module, rule by rule: a graph has no choices to search.

Each line is the effect of its own change alone, computed on the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from constraints import Limits, Verdict
from search.analysis.graph import Graph, Node, image_reaches, widest_last
from search.analysis.reach import window

_DILATIONS = (2, 3, 4)


def hints(graph: Graph, verdict: Verdict, limits: Limits) -> tuple[str, ...]:
    """A line per broken rule for which a change of single layers is known."""
    broken = {violation.rule for violation in verdict.violations}
    lines: list[str] = []
    if broken & {"receptive_field", "dilated"}:
        lines += _dilations(graph, limits.to_mapping().get("receptive_field", 0))
    sizes = broken & {"parameters", "parameter_bytes", "macs", "flash_bytes"}
    if sizes:
        lines += _largest(verdict, "macs" if sizes == {"macs"} else "parameters")
    if sizes or "depthwise_separable" in broken:
        lines += _separable(graph)
    if "downsampling" in broken:
        strays = verdict.analysis.structure.strays
        behind = "nothing, or a 3x3 convolution of stride 2 behind the others"
        lines += [f"{behind}, in place of {stray}" for stray in strays]
    return tuple(lines)


def _dilations(graph: Graph, field: int) -> Iterator[str]:
    """The smallest dilation of one layer, of the last one that is enough."""
    for dilation in _DILATIONS:
        for index in reversed(range(len(graph.nodes))):
            node = _dilated(graph.nodes[index], dilation)
            if node is None or node.window is None:
                continue
            nodes = (*graph.nodes[:index], node, *graph.nodes[index + 1 :])
            changed = replace(graph, nodes=nodes, square=False)
            last = widest_last(changed, image_reaches(changed))
            found = min(0 if reach is None else reach.span for reach in last)
            if found > field:
                padding = node.window.padding[0][0]
                yield f"dilation {dilation} and padding {padding} in {node.name}: RF {found}"
                return


def _dilated(node: Node, dilation: int) -> Node | None:
    """The convolution with its map of the same size; None for what is no plain one."""
    shown = node.window
    if shown is None or node.kind not in ("conv", "depthwise") or max(shown.dilation) > 1:
        return None
    if any(k % 2 == 0 or k == 1 or before != after for k, (before, after) in _sides(node)):
        return None
    padding = [before + (dilation - 1) * (k - 1) // 2 for k, (before, _) in _sides(node)]
    axes = zip(shown.kernel, shown.stride, padding, strict=True)
    wider = replace(
        shown, padding=tuple((p, p) for p in padding), dilation=(dilation,) * len(padding)
    )
    reads = (tuple(window(k, s, p, dilation) for k, s, p in axes),)
    return replace(node, window=wider, reads=reads)


def _sides(node: Node) -> list[tuple[int, tuple[int, int]]]:
    return list(zip(node.window.kernel, node.window.padding, strict=True)) if node.window else []


def _largest(verdict: Verdict, what: str) -> Iterator[str]:
    """The layer that carries most."""
    analysis = verdict.analysis
    row = max(analysis.layers, key=lambda each: getattr(each, what))
    share = getattr(row, what) / getattr(analysis, what)
    yield f"{row.name} carries {share:.0%} of the {what}"


def _separable(graph: Graph) -> Iterator[str]:
    """The dense convolution that a depthwise separable one would spare most weights."""
    spared = {node.name: _spared(graph, node) for node in graph.nodes}
    name = max(spared, key=lambda each: spared[each])
    if spared[name] > 0:
        yield f"a depthwise separable convolution in place of {name}: {spared[name]:,} weights less"


def _spared(graph: Graph, node: Node) -> int:
    if node.kind != "conv" or node.window is None or node.window.groups > 1:
        return 0
    taps, channels = math.prod(node.window.kernel), graph.nodes[node.inputs[0]].channels
    return taps * channels * node.channels - channels * (taps + node.channels)
