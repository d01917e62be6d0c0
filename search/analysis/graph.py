"""Operations on feature maps, and what can be asked of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from search.analysis.reach import IDENTITY, NOTHING, Reach, compose, regular, unite

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Window:
    """The geometry of a layer for the table, one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # before and after
    dilation: tuple[int, ...]
    groups: int = 1

    @classmethod
    def cell(cls, rank: int) -> Window:
        """One position alone, on `rank` axes: of what has no window of its own."""
        ones = (1,) * rank
        return cls(ones, ones, ((0, 0),) * rank, ones)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation on feature maps.

    `reads` holds, per input and spatial axis, what a unit of the output reads of it; None
    stands for the whole axis.  A node without `kind` gets no row in the table.  `operations`
    is what torch calls it, and what follows it element by element, where it was traced.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    reads: tuple[tuple[Reach | None, ...], ...]
    channels: int
    size: tuple[int, ...]
    window: Window | None = None
    parameters: int = 0
    macs: int = 0
    block: str = ""
    operations: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of the output, as float32."""
        return FLOAT32_BYTES * self.channels * math.prod(self.size)


@dataclass(frozen=True, slots=True)
class Structure:
    """What the rules about structure ask.

    `transitions` counts the 3x3 stride-2 convolutions in their place (the ends of C1, C2
    and C3), `missing` names those blocks that end in none, `strays` all other layers that
    shrink the map.
    """

    transitions: int
    strays: tuple[str, ...]
    missing: tuple[str, ...]
    output_cells: int
    separable: int
    dilated: int
    depth: int


@dataclass(frozen=True, slots=True)
class Graph:
    """Operations in order of execution; node 0 is the image.

    `last` are the last feature maps, `parameters` counts the whole network, also what no
    node uses.  `square` says that no spatial value differs between the axes.
    """

    nodes: tuple[Node, ...]
    last: tuple[int, ...]
    parameters: int
    structure: Structure
    notes: tuple[str, ...] = ()
    square: bool = False


Reaches = tuple[Reach | None, ...]


def image_reaches(graph: Graph) -> list[Reaches]:
    """What the units of every node see of the image, per axis."""
    axes = len(graph.nodes[0].size)
    if graph.square:  # one axis stands for all
        return [(reach,) * axes for reach in axis_reaches(graph.nodes, 0)]
    return list(zip(*(axis_reaches(graph.nodes, axis) for axis in range(axes)), strict=True))


def axis_reaches(nodes: Sequence[Node], axis: int) -> list[Reach | None]:
    """What the units of every node see of the image on one axis."""
    result: list[Reach | None] = []
    for node in nodes:
        result.append(node_reach(node, axis, result))
    return result


def node_reach(node: Node, axis: int, below: Sequence[Reach | None]) -> Reach | None:
    """What the units of `node` see of the image, given what those of the nodes before see."""
    seen: Reach | None = NOTHING if node.inputs else IDENTITY
    for source, reads in zip(node.inputs, node.reads, strict=True):
        through = _seen(reads[axis], below[source], node.size[axis])
        if seen is None or through is None:
            seen = None
        elif seen.empty or through.empty:
            seen = through if seen.empty else seen
        else:
            seen = unite(seen, through, node.size[axis])
    return seen and regular(seen.extended, node.size[axis])


def _seen(reads: Reach | None, below: Reach | None, size: int) -> Reach | None:
    if reads is None:
        return None if below is None or not below.empty else NOTHING
    if reads.empty:
        return NOTHING
    return None if below is None else compose(reads, below, size)


def last_maps(nodes: Sequence[Node], output: int) -> tuple[int, ...]:
    """The last feature maps on the way to `output`: it, or what is pooled globally before.

    Per axis the way goes back through everything that reads nothing that counts.  A layer that
    meets nothing but the zeros which a transposed one has put in between is a map that sees none.
    """
    found: set[int] = set()
    for axis in range(len(nodes[0].size)):
        reaches = axis_reaches(nodes, axis)
        pending, visited = [output], set[int]()
        while pending:
            index = pending.pop()
            node = nodes[index]
            reads = zip(node.inputs, node.reads, strict=True)
            if _sees(reaches[index]) or any(
                _sees(how[axis]) and _sees(reaches[n]) for n, how in reads
            ):
                found.add(index)
            elif index not in visited:
                visited.add(index)
                pending += node.inputs
    return tuple(sorted(found))


def _sees(reach: Reach | None) -> bool:
    return reach is None or not reach.empty


def widest_last(graph: Graph, reaches: list[Reaches]) -> Reaches:
    """Per axis the widest of the last maps; None, the whole image, is wider than any."""
    per_axis = zip(*(reaches[index] for index in graph.last), strict=True)
    return tuple(
        None
        if any(reach is None for reach in axis)
        else max(
            (reach for reach in axis if reach is not None),
            key=lambda reach: (reach.span, reach.seen),
        )
        for axis in per_axis
    )


def ancestors(nodes: Sequence[Node], end: int) -> set[int]:
    """The nodes that `end` is computed from, itself included."""
    pending, found = [end], set[int]()
    while pending:
        index = pending.pop()
        if index not in found:
            found.add(index)
            pending += nodes[index].inputs
    return found


def graph_structure(nodes: Sequence[Node], output: int) -> Structure:
    """What the rules about structure ask, as far as a graph can tell.

    It knows no blocks: every 3x3 stride-2 convolution counts as a transition, but of those
    side by side the first alone; everything else that shrinks the map, but pooling that leaves
    one cell, is a stray.
    """
    seeing, steps = _seeing(nodes), _steps(nodes)
    stepped = [
        (nodes[index], steps[index])
        for index in sorted(ancestors(nodes, output))
        if any(_is_map(nodes[source], seeing[source]) for source in nodes[index].inputs)
    ]
    maps = [node for node, _ in stepped]
    convolutions = [node for node in maps if node.kind in CONVOLUTIONS and node.window]
    halving = [n for n, step in stepped if n.kind in CONVOLUTIONS and _halves(n, step)]
    transitions = _in_a_row(nodes, halving)
    strays = [
        f"{node.kind or 'slicing'} {node.name}{' beside another' if node in halving else ''}"
        for node, step in stepped
        if node not in transitions and step > 1 and not _is_global(nodes, node)
    ]
    return Structure(
        transitions=len(transitions),
        strays=tuple(strays),
        missing=(),
        output_cells=math.prod(nodes[output].size),
        separable=sum(
            _is_pointwise(node) and "depthwise" in _kinds_before(nodes, node) for node in maps
        ),
        dilated=sum(
            any(
                k > 1 and d > 1
                for k, d in zip(node.window.kernel, node.window.dilation, strict=True)
            )
            for node in convolutions
            if node.window
        ),
        depth=len(convolutions),
    )


def _seeing(nodes: Sequence[Node]) -> list[tuple[bool, ...]]:
    """Of every node, per axis whether its units see any of the image."""
    result: list[tuple[bool, ...]] = []
    for node in nodes:
        through = [
            tuple(_sees(way) and below for way, below in zip(how, result[source], strict=True))
            for source, how in zip(node.inputs, node.reads, strict=True)
        ]
        all_of_it = (True,) * len(node.size)
        result.append(tuple(map(any, zip(*through, strict=True))) if through else all_of_it)
    return result


def _is_map(node: Node, seeing: tuple[bool, ...]) -> bool:
    """A feature map, be it of one cell: not what global pooling has left, as a gate reads it."""
    return math.prod(node.size) > 1 or any(seeing)


def _halves(node: Node, step: Fraction) -> bool:
    """A 3x3 convolution of stride 2 that is padded by no more than keeps the size at stride 1, on
    a map that nothing halves on the way to it: no space to depth, no patches."""
    window = node.window
    if window is None or (set(window.kernel), set(window.stride)) != ({3}, {2}) or step > 2:
        return False
    pads = zip(window.padding, window.dilation, strict=True)
    return all(sum(padding) <= 2 * dilation for padding, dilation in pads)


def _is_pointwise(node: Node) -> bool:
    """A 1x1 convolution, be it a linear layer over the channels of each position."""
    if node.kind == "linear":
        return all(reads == IDENTITY for how in node.reads for reads in how)
    return node.kind == "pointwise"


def _in_a_row(nodes: Sequence[Node], halving: Sequence[Node]) -> list[Node]:
    """Of the `halving` ones, the first behind each number of others."""
    found: dict[int, Node] = {}
    behind: list[int] = []
    for node in nodes:
        behind.append(max((behind[source] for source in node.inputs), default=0))
        if node in halving:
            found.setdefault(behind[-1], node)
            behind[-1] += 1
    return list(found.values())


def _is_global(nodes: Sequence[Node], node: Node) -> bool:
    """Pooling at the end, as an output block may do it with a fixed window."""
    return node.kind.endswith("pool") and leaves_one_cell(node, nodes[node.inputs[0]].size)


def leaves_one_cell(node: Node, before: Sequence[int]) -> bool:
    """Whether a pooling leaves one cell of a map of the size `before`, and reads all of it but
    what is less than a stride: a window of 1 that takes a corner is no pooling."""
    return math.prod(node.size) == 1 and all(
        way is None or had <= way.seen or abs(way.extended.step) <= way.seen
        for way, had in zip(node.reads[0], before, strict=True)
    )


def _steps(nodes: Sequence[Node]) -> list[Fraction]:
    """Of every node, how far apart its units lie on the map that it reads, on the axis where this
    is most: where it reads patches, on the map that these were cut out of."""
    result, steps, bases = [], list[list[Fraction]](), list[list[Fraction]]()
    for node in nodes:
        most, step = Fraction(0), [Fraction(0 if node.inputs else 1)] * len(node.size)
        base = list(step)
        for source, how in zip(node.inputs, node.reads, strict=True):
            for axis, reads in enumerate(how):
                own = abs(reads.extended.step) if reads else Fraction(0)
                apart, below = own * steps[source][axis], bases[source][axis]
                most = max(most, apart / below if below else own)
                step[axis] = max(step[axis], apart)
                within = own == 1 or not PATCHES.isdisjoint(node.operations[:1])
                base[axis] = max(base[axis], below if within else apart)
        result.append(most)
        steps.append(step)
        bases.append(base)
    return result


def _kinds_before(nodes: Sequence[Node], node: Node) -> set[str]:
    """Kinds of the layers before, through gates and joins, in whichever order these are."""
    pending, kinds = set(carriers(nodes, node)), set[str]()
    while pending:
        before = nodes[pending.pop()]
        if before.kind:
            kinds.add(before.kind)
        else:
            pending.update(carriers(nodes, before))
    return kinds


def carriers(nodes: Sequence[Node], node: Node) -> tuple[int, ...]:
    """The inputs that are maps of the largest size: not the factors of a gate."""
    largest = max((math.prod(nodes[source].size) for source in node.inputs), default=0)
    return tuple(s for s in node.inputs if math.prod(nodes[s].size) == largest)


def peak_bytes(graph: Graph) -> int:
    """Most bytes of feature maps alive at once, for one image in float32.

    Nodes run in order; each writes a new map while its inputs and every map that a later
    node reads are kept.  What follows element by element (normalization, activation)
    works in place; weights do not count.
    """
    needed = {source: index for index, node in enumerate(graph.nodes) for source in node.inputs}
    alive = peak = graph.nodes[0].bytes
    for index, node in enumerate(graph.nodes[1:], 1):
        alive += node.bytes
        peak = max(peak, alive)
        for source in {*node.inputs, index}:
            if needed.get(source, index) == index:
                alive -= graph.nodes[source].bytes
    return peak


PATCHES = frozenset({"im2col", "unfold"})  # operations that cut them out
CONVOLUTIONS = ("conv", "depthwise", "pointwise")


def count_of(nodes: Iterable[Node], *kinds: str) -> int:
    """How many nodes are of one of `kinds`."""
    return sum(node.kind in kinds for node in nodes)
