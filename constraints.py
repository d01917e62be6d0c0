"""The constraint checker: receptive field, size and structure of a network by arithmetic.

`analyze` and `check` read an `Architecture` or a `Graph` (what `search.trace` makes of any
module) and give the table, the counts and the verdict.  `violations` is the fast way for
samplers: the verdict alone, from facts that candidates share.

The receptive field is exact.  On each axis a unit sees a set of input pixels, kept as the
position of the first and a bit mask from there on; a convolution unites shifted masks, a
join unites masks at their true offsets.  Units repeat with a period (1, unless something
up-samples), so one mask per phase describes the infinite plane: the field is theoretical
and not clipped by the image.  Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019, gives the closed forms for chains.

Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

from search.shown import Shown
from space import Architecture, ArchitectureError, Block, Layer, Unit

FLOAT32_BYTES = 4

# ---------------------------------------------------------------------------- reaches


@dataclass(frozen=True, slots=True)
class Reach:
    """What the units of one axis see, or read, of another axis.

    Unit `q * len(phases) + r` sees position `q * shift + first + b` for every set bit `b`
    of the mask, where `(first, mask) = phases[r]`.  A mask of 0 sees nothing.  With
    `bounded` there is one phase per unit, and no unit beyond them (`shift` is unused).
    """

    phases: tuple[tuple[int, int], ...]
    shift: int
    bounded: bool = False

    def at(self, unit: int) -> tuple[int, int]:
        """First position and mask of one unit."""
        turns, phase = divmod(unit, len(self.phases))
        if self.bounded and turns:
            return 0, 0
        first, mask = self.phases[phase]
        return first + turns * self.shift, mask

    @property
    def empty(self) -> bool:
        """Nothing is seen that counts."""
        return not any(mask for _, mask in self.phases)

    @property
    def widest(self) -> tuple[int, int]:
        """The phase with the largest span."""
        return max(self.phases, key=lambda phase: phase[1].bit_length())

    @property
    def span(self) -> int:
        """Positions from the first to the last one seen, in the widest phase."""
        return self.widest[1].bit_length()

    @property
    def seen(self) -> int:
        """Positions truly seen in the widest phase: a stride may leave gaps in the span."""
        return self.widest[1].bit_count()

    @property
    def jump(self) -> int | float:
        """Positions between neighbouring units; the mean where it varies."""
        if self.bounded:
            firsts = [first for first, mask in self.phases if mask]
            step = (firsts[-1] - firsts[0]) / (len(firsts) - 1) if len(firsts) > 1 else 1.0
        else:
            step = self.shift / len(self.phases)
        return int(step) if step == int(step) else step

    @property
    def center(self) -> float:
        """Middle of what unit 0 sees: a position of the other axis, 0 its first."""
        first, mask = self.phases[0]
        return first + (mask.bit_length() - 1) / 2


IDENTITY = Reach(((0, 1),), 1)
NOTHING = Reach(((0, 0),), 0)  # global pooling, which does not count
FIRST = Reach(((0, 1),), 0)  # every unit reads unit 0: one copied to all


def window(kernel: int, stride: int = 1, before: int = 0, dilation: int = 1) -> Reach:
    """What a convolution or pooling reads: `kernel` taps `dilation` apart."""
    return Reach(((-before, sum(1 << tap * dilation for tap in range(kernel))),), stride)


def compose(outer: Reach, inner: Reach, size: int) -> Reach:
    """What `size` units see through two steps: they read `outer`, which sees `inner`."""
    if outer.bounded or inner.bounded:
        return Reach(tuple(_through(outer.at(i), inner) for i in range(size)), 0, True)
    turns = len(inner.phases) // math.gcd(outer.shift, len(inner.phases))
    period = len(outer.phases) * turns
    shift = outer.shift * turns // len(inner.phases) * inner.shift
    return Reach(tuple(_through(outer.at(i), inner) for i in range(period)), shift)


def _through(reads: tuple[int, int], inner: Reach) -> tuple[int, int]:
    first, mask = reads
    result = (0, 0)
    while mask:
        tap = (mask & -mask).bit_length() - 1
        result = _both(result, inner.at(first + tap))
        mask &= mask - 1
    return result


def _both(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    if not a[1] or not b[1]:
        return a if a[1] else b
    first = min(a[0], b[0])
    return first, a[1] << (a[0] - first) | b[1] << (b[0] - first)


def unite(a: Reach, b: Reach, size: int) -> Reach:
    """What `size` units see that see both `a` and `b`."""
    if a == b:
        return a
    same_jump = a.shift * len(b.phases) == b.shift * len(a.phases)
    if a.bounded or b.bounded or not same_jump:
        return Reach(tuple(_both(a.at(i), b.at(i)) for i in range(size)), 0, True)
    period = math.lcm(len(a.phases), len(b.phases))
    phases = tuple(_both(a.at(i), b.at(i)) for i in range(period))
    return Reach(phases, a.shift * period // len(a.phases))


# ----------------------------------------------------------------------------- graphs


@dataclass(frozen=True, slots=True)
class Window:
    """The geometry of a layer for the table, one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # before and after
    dilation: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One operation on feature maps.

    `reads` holds, per input and spatial axis, what a unit of the output reads of it; None
    stands for the whole axis.  A node without `kind` gets no row in the table.
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

    @property
    def bytes(self) -> int:
        """Of the output, as float32."""
        return FLOAT32_BYTES * self.channels * math.prod(self.size)


@dataclass(frozen=True, slots=True)
class Structure:
    """What the rules about structure ask.

    `transitions` counts the 3x3 stride-2 convolutions in their place (the ends of C1, C2
    and C3), `strays` names all other layers that shrink the map.
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
    notes: tuple[str, ...] = ()


def analyze(target: Architecture | Graph) -> Analysis:
    """Table and counts of a network.

    Raises:
        ArchitectureError: a window does not fit on the map that it reads.
    """
    graph = lower(target) if isinstance(target, Architecture) else target
    reaches = _reaches(graph)
    last = _last(graph, reaches)
    return Analysis(
        receptive_field=_each(last, "span"),
        jump=_each(last, "jump"),
        center=_each(last, "center"),
        pixels_seen=_each(last, "seen"),
        parameters=graph.parameters,
        macs=sum(node.macs for node in graph.nodes),
        activation_bytes=_peak_bytes(graph),
        feature_map=graph.nodes[graph.last[-1]].size,
        structure=graph.structure,
        layers=tuple(
            _row(graph, index, reaches) for index, node in enumerate(graph.nodes) if node.kind
        ),
        notes=graph.notes,
    )


Reaches = tuple[Reach | None, ...]


def _reaches(graph: Graph) -> list[Reaches]:
    """What the units of every node see of the image, per axis."""
    axes = len(graph.nodes[0].size)
    if graph.square:  # one axis stands for all
        return [(reach,) * axes for reach in axis_reaches(graph.nodes, 0)]
    return list(zip(*(axis_reaches(graph.nodes, axis) for axis in range(axes)), strict=True))


def axis_reaches(nodes: Sequence[Node], axis: int) -> list[Reach | None]:
    """What the units of every node see of the image on one axis."""
    result: list[Reach | None] = []
    for node in nodes:
        seen: Reach | None = NOTHING if node.inputs else IDENTITY
        for source, reads in zip(node.inputs, node.reads, strict=True):
            through = _seen(reads[axis], result[source], node.size[axis])
            if seen is None or through is None:
                seen = None
            elif seen.empty or through.empty:
                seen = through if seen.empty else seen
            else:
                seen = unite(seen, through, node.size[axis])
        result.append(seen)
    return result


def _seen(reads: Reach | None, below: Reach | None, size: int) -> Reach | None:
    if reads is None:
        return None if below is None or not below.empty else NOTHING
    if reads.empty:
        return NOTHING
    return None if below is None else compose(reads, below, size)


def last_maps(nodes: Sequence[Node], output: int) -> tuple[int, ...]:
    """The last feature maps on the way to `output`: it, or what is pooled globally before.

    Per axis the way goes back through everything that sees nothing that counts.
    """
    found: set[int] = set()
    for axis in range(len(nodes[0].size)):
        reaches = axis_reaches(nodes, axis)
        pending, visited = [output], set[int]()
        while pending:
            index = pending.pop()
            reach = reaches[index]
            if reach is None or not reach.empty:
                found.add(index)
            elif index not in visited:
                visited.add(index)
                pending += nodes[index].inputs
    return tuple(sorted(found))


def _last(graph: Graph, reaches: list[Reaches]) -> Reaches:
    """Per axis the widest of the last maps; None, the whole image, is wider than any."""
    per_axis = zip(*(reaches[index] for index in graph.last), strict=True)
    return tuple(
        None
        if any(reach is None for reach in axis)
        else max((reach for reach in axis if reach is not None), key=lambda reach: reach.span)
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

    It knows no blocks: every 3x3 stride-2 convolution counts as a transition, everything
    else that shrinks the map and all pooling that leaves more than a cell as a stray.
    """
    maps = [nodes[index] for index in sorted(ancestors(nodes, output)) if _reads_map(nodes, index)]
    convolutions = [node for node in maps if node.kind in _CONVOLUTIONS and node.window]
    transitions = [node for node in convolutions if _halves(node)]
    strays = [
        f"{node.kind or 'slicing'} {node.name}"
        for node in maps
        if node not in transitions and _shrinks(node) and not _leaves_one_cell(node)
    ]
    return Structure(
        transitions=len(transitions),
        strays=tuple(strays),
        missing=(),
        output_cells=math.prod(nodes[output].size),
        separable=sum(
            node.kind == "pointwise" and _before(nodes, node).kind == "depthwise"
            for node in convolutions
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


def _reads_map(nodes: Sequence[Node], index: int) -> bool:
    return any(math.prod(nodes[source].size) > 1 for source in nodes[index].inputs)


def _halves(node: Node) -> bool:
    return node.window is not None and (set(node.window.kernel), set(node.window.stride)) == (
        {3},
        {2},
    )


def _leaves_one_cell(node: Node) -> bool:
    """Pooling at the end, as an output block may do it with a fixed window."""
    return node.kind.endswith("pool") and math.prod(node.size) == 1


def _shrinks(node: Node) -> bool:
    strided = any(reads is not None and reads.jump > 1 for how in node.reads for reads in how)
    return strided or node.kind.endswith("pool")


def _before(nodes: Sequence[Node], node: Node) -> Node:
    """The layer before, through gates and joins."""
    node = nodes[node.inputs[0]]
    while node.inputs and not node.kind:
        node = nodes[node.inputs[0]]
    return node


def _each(reaches: Reaches, attribute: str) -> tuple[Any, ...]:
    return tuple(
        None if reach is None or reach.empty else getattr(reach, attribute) for reach in reaches
    )


def _row(graph: Graph, index: int, reaches: list[Reaches]) -> LayerRow:
    node = graph.nodes[index]
    source = node.inputs[0]
    ones = (1,) * len(node.size)
    return LayerRow(
        name=node.name,
        kind=node.kind,
        block=node.block,
        window=node.window or Window(ones, ones, ((0, 0),) * len(ones), ones),
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


def _peak_bytes(graph: Graph) -> int:
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


# ---------------------------------------------------------------- architectures as graphs


def convolved(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Units that a window leaves of `size`; `padding` is the sum of both sides.

    Raises:
        ArchitectureError: the window is wider than the padded map.
    """
    room = size + padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise ArchitectureError(
            f"a window of {dilation * (kernel - 1) + 1} does not fit on a map of {size} "
            f"with {padding} of padding"
        )
    return room // stride + 1


def layer_parameters(layer: Layer) -> int:
    """Weights, biases, and scale and shift of the normalization."""
    return _weights(layer) + layer.out_channels * (layer.bias + 2 * layer.norm)


def _weights(layer: Layer) -> int:
    return layer.in_channels // layer.groups * layer.out_channels * layer.kernel**2


def _gate_weights(unit: Unit) -> int:
    """Squeeze and excite: two 1x1 convolutions with bias, on one pooled cell."""
    return 2 * unit.out_channels * unit.squeeze_excite


def _gate_parameters(unit: Unit) -> int:
    biases = unit.squeeze_excite + unit.out_channels if unit.squeeze_excite else 0
    return _gate_weights(unit) + biases


def _classifier_parameters(architecture: Architecture) -> int:
    output = architecture.output
    return output.classes * (architecture.features + output.bias)


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
    summary = Summary(architecture)
    return Graph(tuple(nodes), (last,), summary.parameters, summary.structure, square=True)


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
    name = f"GATE{_count(nodes, 'gate') + 1}"
    weights, parameters = _gate_weights(unit), _gate_parameters(unit)
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


_CONVOLUTIONS = ("conv", "depthwise", "pointwise")


def _count(nodes: Iterable[Node], *kinds: str) -> int:
    return sum(node.kind in kinds for node in nodes)


def _lower_layer(nodes: list[Node], layer: Layer, block: str) -> None:
    name = f"CONV{_count(nodes, *_CONVOLUTIONS) + 1}"
    try:
        size = tuple(_convolved(layer, side) for side in nodes[-1].size)
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
            _weights(layer) * math.prod(size),
            block,
        )
    )


def _convolved(layer: Layer, side: int) -> int:
    return convolved(side, layer.kernel, layer.stride, 2 * layer.padding, layer.dilation)


def _lower_output(nodes: list[Node], architecture: Architecture) -> None:
    """The pooled cell and its classifier; neither adds to the receptive field."""
    output = architecture.output
    cells = _pooled(architecture, nodes[-1].size)
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
            parameters=_classifier_parameters(architecture),
            macs=output.classes * architecture.features * math.prod(cells),
            block="O",
        )
    )


def _pooled(architecture: Architecture, size: tuple[int, ...]) -> tuple[int, ...]:
    output = architecture.output
    if not output.pool_kernel:
        return (1,) * len(size)
    try:
        return tuple(convolved(n, output.pool_kernel, output.pool_stride, 0, 1) for n in size)
    except ArchitectureError as error:
        raise ArchitectureError(f"pooling in O: {error}") from None


def count_parameters(architecture: Architecture) -> int:
    """Trainable parameters; equals the built module's."""
    return Summary(architecture).parameters


def count_macs(architecture: Architecture) -> int:
    """Multiply-adds of convolutions and the classifier for one input."""
    return Summary(architecture).macs


# ------------------------------------------------------------------------- fast facts


class _Chain(NamedTuple):
    """What layers in sequence add to a network, whatever stands before them.

    `growth` of the receptive field is in units of the map that the chain reads; `weights`
    are the multiply-adds per unit of a map that keeps its size.
    """

    layers: tuple[Layer, ...]
    parameters: int
    weights: int
    growth: int
    stride: int
    strided: int
    separable: int
    dilated: int
    starts_pointwise: bool
    ends_depthwise: bool
    ends_in_transition: bool
    keeps_size: bool


# Candidates share most of their units (see `space._unit`), so facts are kept per unit.
@lru_cache(maxsize=65_536)
def _chain(layers: tuple[Layer, ...]) -> _Chain:
    growth, stride = 0, 1
    for layer in layers:
        growth += layer.dilation * (layer.kernel - 1) * stride
        stride *= layer.stride
    return _Chain(
        layers,
        parameters=sum(layer_parameters(layer) for layer in layers),
        weights=sum(_weights(layer) for layer in layers),
        growth=growth,
        stride=stride,
        strided=sum(layer.stride > 1 for layer in layers),
        separable=sum(a.depthwise and b.pointwise for a, b in pairwise(layers)),
        dilated=sum(layer.kernel > 1 and layer.dilation > 1 for layer in layers),
        starts_pointwise=layers[0].pointwise,
        ends_depthwise=layers[-1].depthwise,
        ends_in_transition=_ends_in_transition(layers),
        keeps_size=all(layer.keeps_size for layer in layers),
    )


def _ends_in_transition(layers: tuple[Layer, ...]) -> bool:
    """Ends in a 3x3 convolution of stride 2, dense or depthwise separable."""
    *before, last = layers
    if before and before[-1].depthwise and last.pointwise and last.stride == 1:
        last = before[-1]
    return last.kernel == 3 and last.stride == 2


class Summary:
    """What the limits ask about an architecture, computed when they ask.

    The receptive field is the closed form of a chain.  It is exact: a residual unit must
    keep the map's size in every layer, so its path is centred on the shortcut and
    contains it.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._chains: list[_Chain] = []
        self._gates: list[Unit] = []
        for block in architecture.blocks:
            for unit in block.units:
                self._chains.append(_chain(unit.layers))
                if unit.squeeze_excite:
                    self._gates.append(unit)
            if block.transition:
                self._chains.append(_chain(block.transition))

    @property
    def receptive_field(self) -> tuple[int | None, ...]:
        field, jump = 1, 1
        for chain in self._chains:
            field += chain.growth * jump
            jump *= chain.stride
        return field, field

    @property
    def parameters(self) -> int:
        total = _classifier_parameters(self._architecture)
        for chain in self._chains:
            total += chain.parameters
        for unit in self._gates:
            total += _gate_parameters(unit)
        return total

    @cached_property
    def feature_map(self) -> tuple[int, ...]:
        _, height, width = self._architecture.input
        for chain in self._chains:
            if not chain.keeps_size:
                for layer in chain.layers:
                    height, width = _convolved(layer, height), _convolved(layer, width)
        return height, width

    @property
    def macs(self) -> int:
        """Layer by layer where the map changes its size."""
        _, height, width = self._architecture.input
        total = sum(map(_gate_weights, self._gates))
        for chain in self._chains:
            if chain.keeps_size:
                total += chain.weights * height * width
                continue
            for layer in chain.layers:
                height, width = _convolved(layer, height), _convolved(layer, width)
                total += _weights(layer) * height * width
        cells = math.prod(_pooled(self._architecture, (height, width)))
        return total + self._architecture.features * self._architecture.output.classes * cells

    @property
    def activation_bytes(self) -> int:
        return _peak_bytes(lower(self._architecture))

    @cached_property
    def structure(self) -> Structure:
        strided = separable = dilated = depth = 0
        was_depthwise = False
        for chain in self._chains:
            strided += chain.strided
            separable += chain.separable + (was_depthwise and chain.starts_pointwise)
            dilated += chain.dilated
            depth += len(chain.layers)
            was_depthwise = chain.ends_depthwise
        blocks = self._architecture.blocks
        missing = tuple(
            block.name for block in blocks[:-1] if not _chain(_tail(block)).ends_in_transition
        )
        transitions = len(blocks) - 1 - len(missing)
        return Structure(
            transitions=transitions,
            strays=() if strided == transitions else _strays(blocks, missing),
            missing=missing,
            output_cells=math.prod(_pooled(self._architecture, self.feature_map)),
            separable=separable,
            dilated=dilated,
            depth=depth,
        )


def _tail(block: Block) -> tuple[Layer, ...]:
    return block.transition or block.units[-1].layers


def _strays(blocks: Sequence[Block], missing: Sequence[str]) -> tuple[str, ...]:
    """Layers with a stride beyond one at the end of each block that is not in `missing`."""
    names = []
    for block in blocks:
        strided = [layer for layer in block.layers if layer.stride > 1]
        placed = block is not blocks[-1] and block.name not in missing
        names += [
            f"a {layer.kernel}x{layer.kernel} stride-{layer.stride} layer in {block.name}"
            for layer in (strided[:-1] if placed else strided)
        ]
    return tuple(names)


# ----------------------------------------------------------------------------- limits


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: what was found, what is allowed, and that in words.

    `excess` > 0 says how far from legal, relative to the limit.
    """

    rule: str
    found: int | None
    limit: int
    message: str
    excess: float = field(default=1.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "found": self.found,
            "limit": self.limit,
            "message": self.message,
        }


LIMITS: dict[str, type[Limit]] = {}


@dataclass(frozen=True, slots=True)
class Limit(ABC):
    """One rule.  A subclass names it in `key`, and joins `LIMITS` by being defined."""

    value: int
    key: ClassVar[str]
    lowest: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        if "key" in vars(cls):
            LIMITS[cls.key] = cls

    @abstractmethod
    def violation(self, network: Summary | Analysis) -> Violation | None:
        """What `network` breaks of the rule, None where it keeps it."""

    def _broken(self, found: int | None, message: str, distance: float) -> Violation:
        excess = distance / max(self.value, 1)
        return Violation(self.key, found, self.value, message, excess)


class _Below(Limit):
    """Something counted must stay below the limit; the limit itself is rejected."""

    noun: ClassVar[str]

    def violation(self, network: Summary | Analysis) -> Violation | None:
        found = self.count(network)
        if found < self.value:
            return None
        message = f"{self.noun} must stay below {self.value:,}, but got {found:,}"
        return self._broken(found, message, found - self.value + 1)

    @abstractmethod
    def count(self, network: Summary | Analysis) -> int:
        """What is compared."""


class ReceptiveField(Limit):
    """The smaller axis of the receptive field must exceed the limit."""

    key = "receptive_field"
    lowest = 0

    def violation(self, network: Summary | Analysis) -> Violation | None:
        fields = network.receptive_field
        if None in fields:
            message = (
                f"the receptive field must exceed {self.value}, but has no value: "
                "a unit of the last map sees the whole image other than by global pooling"
                + "".join(f" ({note})" for note in network.notes[:1])
            )
            return self._broken(None, message, self.value + 1)
        found = min(value for value in fields if value is not None)
        if found > self.value:
            return None
        message = f"the receptive field must exceed {self.value}, but is {found}"
        return self._broken(found, message, self.value + 1 - found)


class Parameters(_Below):
    """Trainable parameters."""

    key = "parameters"
    noun = "parameters"

    def count(self, network: Summary | Analysis) -> int:
        return network.parameters


class ParameterBytes(_Below):
    """Bytes of the trainable parameters in float32."""

    key = "parameter_bytes"
    noun = "bytes of parameters (float32)"

    def count(self, network: Summary | Analysis) -> int:
        return FLOAT32_BYTES * network.parameters


class Macs(_Below):
    """Multiply-adds for one input."""

    key = "macs"
    noun = "multiply-adds"

    def count(self, network: Summary | Analysis) -> int:
        return network.macs


class ActivationBytes(_Below):
    """Peak bytes of feature maps for one image in float32: see `_peak_bytes`."""

    key = "activation_bytes"
    noun = "peak bytes of feature maps (float32, one image)"

    def count(self, network: Summary | Analysis) -> int:
        return network.activation_bytes


class Downsampling(Limit):
    """Exactly so many 3x3 stride-2 convolutions, one at the end of each of C1, C2, C3; no
    other layer shrinks the map, and pooling in O leaves one cell."""

    key = "downsampling"
    lowest = 0

    def violation(self, network: Summary | Analysis) -> Violation | None:
        found = network.structure
        faults = []
        if found.transitions != self.value:
            where = f" (none ends {', '.join(found.missing)})" if found.missing else ""
            faults.append(
                f"exactly {self.value} 3x3 stride-2 convolutions must downsample, one at the "
                f"end of each of C1, C2 and C3, but there are {found.transitions}{where}"
            )
        if found.strays:
            faults.append(f"nothing else may downsample, but there is {', '.join(found.strays)}")
        if found.output_cells != 1:
            faults.append(f"pooling must leave one cell, but leaves {found.output_cells}")
        if not faults:
            return None
        distance = abs(found.transitions - self.value) + len(found.strays)
        count = found.transitions + len(found.strays)
        return self._broken(count, "; ".join(faults), max(distance, 1))


class _AtLeast(Limit):
    """A kind of layer must occur so many times or more."""

    noun: ClassVar[str]

    def violation(self, network: Summary | Analysis) -> Violation | None:
        found = self.count(network)
        if found >= self.value:
            return None
        message = f"at least {self.value} {self.noun} needed, but got {found}"
        return self._broken(found, message, self.value - found)

    @abstractmethod
    def count(self, network: Summary | Analysis) -> int:
        """What is compared."""


class DepthwiseSeparable(_AtLeast):
    """A depthwise k x k convolution followed by a pointwise 1x1 one."""

    key = "depthwise_separable"
    noun = "depthwise separable convolution (depthwise k x k, then pointwise 1x1)"

    def count(self, network: Summary | Analysis) -> int:
        return network.structure.separable


class Dilated(_AtLeast):
    """A convolution with kernel > 1 and dilation > 1."""

    key = "dilated"
    noun = "dilated convolution (kernel > 1, dilation > 1)"

    def count(self, network: Summary | Analysis) -> int:
        return network.structure.dilated


class FeatureMap(_AtLeast):
    """The smaller side of the last feature map."""

    key = "feature_map"
    noun = "units on the smaller side of the last feature map"

    def count(self, network: Summary | Analysis) -> int:
        return min(network.feature_map)


class Depth(Limit):
    """Convolutions in C1 to C4; gates and the classifier do not count."""

    key = "depth"

    def violation(self, network: Summary | Analysis) -> Violation | None:
        found = network.structure.depth
        if found <= self.value:
            return None
        message = f"at most {self.value} convolutions allowed, but got {found}"
        return self._broken(found, message, found - self.value)


@dataclass(frozen=True, slots=True)
class Limits(Shown):
    """The rules of a study, in its order."""

    rules: tuple[Limit, ...]

    @classmethod
    def from_mapping(cls, values: Mapping[str, int]) -> Limits:
        """The limits that `values`, `[limits]` of the study file, names.

        Raises:
            ValueError: an unknown name (with the nearest known one), or no whole number.
        """
        return cls(tuple(_limit(name, value) for name, value in values.items()))

    def to_mapping(self) -> dict[str, int]:
        """The inverse of `from_mapping`."""
        return {rule.key: rule.value for rule in self.rules}


def _limit(name: str, value: object) -> Limit:
    kind = LIMITS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, LIMITS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(LIMITS)}"
        raise ValueError(f"unknown limit {name!r}; {hint}")
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"limit {name} must be a whole number, but got {value!r}")
    if value < kind.lowest:
        raise ValueError(f"limit {name} must be at least {kind.lowest}, but got {value}")
    return kind(value)


@dataclass(frozen=True, slots=True)
class Verdict(Shown):
    """The analysis of a network and the rules that it breaks."""

    analysis: Analysis
    violations: tuple[Violation, ...]

    @property
    def accepted(self) -> bool:
        return not self.violations

    def to_json(self) -> dict[str, Any]:
        """The document of `check --json`."""
        analysis = self.analysis
        axes = ("depth", "height", "width")[-len(analysis.receptive_field) :]
        return {
            "receptive_field": dict(zip(axes, analysis.receptive_field, strict=True)),
            "jump": dict(zip(axes, analysis.jump, strict=True)),
            "center": dict(zip(axes, analysis.center, strict=True)),
            "pixels_seen": dict(zip(axes, analysis.pixels_seen, strict=True)),
            "parameters": analysis.parameters,
            "macs": analysis.macs,
            "accepted": self.accepted,
            "violations": [violation.to_json() for violation in self.violations],
            "notes": list(analysis.notes),
            "layers": [layer.to_json() for layer in analysis.layers],
        }


def check(target: Architecture | Graph, limits: Limits) -> Verdict:
    """The verdict on a network, with its table.

    Raises:
        ArchitectureError: a window does not fit on the map that it reads.
    """
    analysis = analyze(target)
    return Verdict(analysis, _broken_rules(analysis, limits))


def violations(architecture: Architecture, limits: Limits) -> tuple[Violation, ...]:
    """The rules that an architecture breaks: `check` without the table, for samplers.

    Raises:
        ArchitectureError: a window does not fit on the map that it reads.
    """
    return _broken_rules(Summary(architecture), limits)


def _broken_rules(network: Summary | Analysis, limits: Limits) -> tuple[Violation, ...]:
    found = (rule.violation(network) for rule in limits.rules)
    return tuple(violation for violation in found if violation is not None)
