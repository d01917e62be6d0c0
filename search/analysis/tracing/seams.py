"""Whether the units that a map of pieces has see what the planes of its pieces promise.

The field of a piece is that of an infinite plane (`reach.py`), as it is for an image: what
lies beyond the border would be more of the same.  Where layers run on pieces smaller than
what they read, no unit sees so much, and none would on a larger image.  So maps with seams
are also followed unit by unit, cut at every border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.analysis.graph import Graph, Node, ancestors, axis_reaches
from search.analysis.reach import Reach
from search.analysis.tracing.errors import LayoutError


def require_seen(graph: Graph) -> None:
    """
    Raises:
        LayoutError: all units of the last maps see less than the receptive field is.
    """
    used = set[int]().union(*(ancestors(graph.nodes, last) for last in graph.last))
    for axis, pixels in enumerate(graph.nodes[0].size):
        reads = (how[axis] for node in used for how in graph.nodes[node].reads)
        if not any(how.seams for how in reads if how):
            continue
        seen_by = axis_reaches(graph.nodes, axis)
        reaches = [seen_by[last] for last in graph.last]
        units = _units(graph.nodes, axis)
        field = max((reach.span for reach in reaches if reach), default=0)
        jump = max((math.ceil(reach.jump) for reach in reaches if reach), default=1)
        seen = max(_span(mask) for last in graph.last for mask in units[last])
        if None not in reaches and seen < min(field, pixels) - max(0, jump - 1):
            raise LayoutError(
                f"its pieces are smaller than what their layers read: no unit sees more than "
                f"{seen} of {field} pixels"
            )


def _span(mask: int) -> int:
    return mask.bit_length() - (mask & -mask).bit_length() + 1 if mask else 0


def _units(nodes: Sequence[Node], axis: int) -> list[list[int]]:
    """Per node and unit a mask of the pixels that it sees on one axis."""
    result: list[list[int]] = []
    for node in nodes:
        n = node.size[axis]
        units = [0] * n if node.inputs else [1 << pixel for pixel in range(n)]
        for source, how in zip(node.inputs, node.reads, strict=True):
            units = [
                mask | _read(how[axis], unit, result[source]) for unit, mask in enumerate(units)
            ]
        result.append(units)
    return result


def _read(how: Reach | None, unit: int, below: Sequence[int]) -> int:
    first, mask = (0, (1 << len(below)) - 1) if how is None else how.at(unit)
    seen = 0
    for position in range(max(first, 0), min(first + mask.bit_length(), len(below))):
        if mask >> (position - first) & 1:
            seen |= below[position]
    return seen
