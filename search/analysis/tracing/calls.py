"""What each torch operation reads, as nodes of the graph.

A handler gets a `Call` and gives the `Value` of the output: which node holds it, and where
the node's positions stand in the tensor.  It raises `LayoutError` for an arrangement that
it cannot follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from search.analysis.graph import Node, Window, leaves_one_cell, node_reach
from search.analysis.reach import NOTHING, Reach
from search.analysis.tracing.errors import LayoutError
from search.analysis.tracing.layout import Dim, Dims, moving

Reads = list[Reach | None]


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the image."""

    node: int
    dims: Dims

    @property
    def moves(self) -> bool:
        """Some dimension runs over positions."""
        return any(moving(dim) for dim in self.dims)


@dataclass
class Builder:
    """The graph so far.

    `grids` maps nodes of adaptive pooling to what they pool, `counted` those of pooling that
    leaves one cell to the local operations that they would be otherwise, `parts` concatenated
    channels to what they were: the value as it came out, the dimension, each part and its
    channels; `rows` nodes at one index of an axis to such axes, the last taken last;
    `apart` nodes to those before them that some channels see and others do not;
    `sequences` nodes to what their sequence of tokens was put together from: the number of
    each part, and the dimension that it was, () where it saw nothing, None where it saw other
    places than the rest;
    `operations` what each node is made by, and what follows it element by element.
    """

    nodes: list[Node]
    notes: list[str] = field(default_factory=list)
    rows: dict[int, tuple[int, ...]] = field(default_factory=dict)
    apart: dict[int, frozenset[int]] = field(default_factory=dict)
    grids: dict[int, int] = field(default_factory=dict)
    counted: dict[int, Node] = field(default_factory=dict)
    parts: dict[int, tuple[Value, int, list[tuple[Value | None, int]]]] = field(
        default_factory=dict
    )
    sequences: dict[int, tuple[tuple[int, Dim | None], ...]] = field(default_factory=dict)
    operations: dict[int, list[str]] = field(default_factory=dict)
    _whole: set[int] = field(default_factory=set)
    _seen: dict[int, list[Reach | None]] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return len(self.nodes[0].size)

    def whole(self, value: Value) -> bool:
        """Every axis is seen as a whole, so that it no longer matters what stands where."""
        return value.node in self._whole

    def seen(self, node: int, axis: int) -> Reach | None:
        """What the units of a node see of the image on one axis."""
        known = self._seen.setdefault(axis, [])
        for index in range(len(known), node + 1):
            known.append(node_reach(self.nodes[index], axis, known))
        return known[node]

    def alike(self, nodes: Iterable[int]) -> bool:
        """Units of all `nodes` see the same of the image."""
        return len({tuple(self.seen(node, a) for a in range(self.rank)) for node in nodes}) < 2

    def make_global(self, index: int) -> None:
        """Pooling that leaves one cell of several is global."""
        node = self.nodes[index]
        before = self.nodes[node.inputs[0]].size
        if not leaves_one_cell(node, before):
            return
        how = tuple(
            NOTHING if left == 1 < had and reads else reads
            for reads, left, had in zip(node.reads[0], node.size, before, strict=True)
        )
        if how != node.reads[0]:
            self.counted[index] = node
            self.nodes[index] = replace(node, reads=(how,))

    def append(self, node: Node) -> int:
        """Adds a node and gives its index."""
        self.nodes.append(node)
        index = len(self.nodes) - 1
        for source, how in zip(node.inputs, node.reads, strict=True):
            blind = all(reads is None for reads in how)
            through = source in self._whole and not all(r is NOTHING for r in how)
            if blind or through:
                self._whole.add(index)
            kept = [a for a in self.rows.get(source, ()) if node.size[a] == 1 and _reads(how[a])]
            if kept:
                self.rows[index] = tuple(dict.fromkeys((*self.rows.get(index, ()), *kept)))
            if source in self.apart:
                self.apart[index] = self.apart.get(index, frozenset()) | self.apart[source]
        alike = [source for source in node.inputs if self.nodes[source].size == node.size]
        told = {self.sequences.get(source) for source in alike}
        if len(told) == 1 and (sequence := told.pop()):
            self.sequences[index] = sequence
        return index


def _reads(how: Reach | None) -> bool:
    return how is not None and not how.empty


@dataclass
class Call:
    """One operation: its name and arguments by name, and the output's tensor or tensors."""

    builder: Builder
    where: str
    name: str
    arguments: dict[str, Any]
    out: Any
    macs: int
    find: Callable[[Tensor], Value | None]
    learned: Callable[[Tensor], bool]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first output."""
        first = self.out if isinstance(self.out, Tensor) else self.out[0]
        return tuple(first.shape)

    def value(self, name: str) -> Value:
        """The value of an argument that must depend on the image alone here."""
        found = self.optional(name)
        if found is None:
            raise LayoutError(f"its argument {name!r} does not depend on the image, others do")
        return found

    def optional(self, name: str) -> Value | None:
        argument = self.arguments.get(name)
        return self.find(argument) if isinstance(argument, Tensor) else None

    def values(self) -> Iterator[Value]:
        """Of all arguments that depend on the image."""
        for argument in self.arguments.values():
            for part in argument if isinstance(argument, list | tuple) else [argument]:
                found = self.find(part) if isinstance(part, Tensor) else None
                if found is not None:
                    yield found

    def size(self, value: Value) -> tuple[int, ...]:
        """Of the map that holds `value`, per spatial axis."""
        return self.builder.nodes[value.node].size

    def add(
        self,
        inputs: Sequence[tuple[int, Sequence[Reach | None]]],
        size: Sequence[int],
        dims: Sequence[Dim],
        kind: str = "",
        window: Window | None = None,
    ) -> Value:
        """A new node that reads `inputs`, and the value that it holds."""
        if 0 in size:
            raise LayoutError("it leaves a map without positions")
        index = self.builder.append(
            Node(
                self.where,
                kind,
                tuple(node for node, _ in inputs),
                tuple(tuple(how) for _, how in inputs),
                max(1, math.prod(self.shape) // math.prod(size)),
                tuple(size),
                window,
                macs=self.macs if kind else 0,
            )
        )
        self.builder.operations[index] = [self.name]
        return Value(index, tuple(dims))

    def note(self, text: str) -> None:
        self.builder.notes.append(f"{self.where}: {text}")


Handler = Callable[[Call], Value] | Callable[[Call], list[Value]]
HANDLERS: dict[str, Handler] = {}
# These look at the shape of their input, not at what it holds.
SHAPE_ONLY = frozenset(
    f"{kind}_like" for kind in ("empty", "zeros", "ones", "full", "rand", "randn")
) | {"new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"}
# These overwrite their first argument, which so does not count.
OVERWRITING = frozenset({"copy", "fill", "zero"})
_H = TypeVar("_H", Callable[[Call], Value], Callable[[Call], list[Value]])


_PUBLIC = {
    "convolution": "conv",
    "addmm": "linear",
    "mm": "linear",
    "bmm": "matmul",
    "baddbmm": "matmul",
    "im2col": "unfold",
    "col2im": "fold",
}


def public_name(name: str) -> str:
    """The operation as its user wrote it, where torch's own name differs."""
    name = name.strip("_").removesuffix("_with_indices")
    return "interpolate" if name.startswith("upsample") else _PUBLIC.get(name, name)


def handles(*names: str) -> Callable[[_H], _H]:
    """Registers a function as the reading of the operators of these names."""

    def register(handler: _H) -> _H:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register
