"""Any `nn.Module` as the graph that `constraints` reads.

The module runs once, in evaluation mode, on a tensor of the meta device: shapes without
data.  Below Python, torch hands every operation to `_Recorder`, functionalized (in-place
operations and writes through views become plain ones).  Control flow on shapes is thus
followed, functional and module forms are one, and composite operations arrive as the few
that they are made of.

Each tensor that depends on the image is a `Value`: a node of the graph and the places of
the node's positions in the tensor (`layout.py`).  Channels are taken together: a unit
is a position with all its channels.  What is not known is refused, never passed on.

An operation counts as element-wise, its output at an index depending on its inputs at that
index alone, if torch itself tags it `pointwise`, or if it stands in the list of
`elementwise.py`, whose members meet this criterion but lack the tag.
Normalizations are of that kind too: their statistics over space are global averages, which
do not count.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from search.analysis.graph import Graph, Node, ancestors, carriers, graph_structure, last_maps
from search.analysis.tracing import (
    elementwise,
    joining,
    parts,
    patches,
    rearranging,
    resampling,
    sums,
    windows,
    writing,
)
from search.analysis.tracing.calls import (
    HANDLERS,
    OVERWRITING,
    SHAPE_ONLY,
    Builder,
    Call,
    Handler,
    Value,
    public_name,
)
from search.analysis.tracing.errors import LayoutError, TraceError, UnknownOperationError
from search.analysis.tracing.layout import Dim, along, channels, length
from search.analysis.tracing.loading import in_words
from search.analysis.tracing.moved import MOVING, Moved, move, numbered
from search.analysis.tracing.remarks import about_pooling, about_weights
from search.analysis.tracing.running import AsFunction, Intent, evaluating, image_for
from search.analysis.tracing.seams import require_seen

RECORDED = "TorchScript interpreter"  # torch's words
NO_FORWARD = 'missing the required "forward" function'  # torch's words
CODE = (AttributeError, NameError, TypeError, RecursionError)  # seldom the shape's fault
WAY = "replace it by convolution, pooling, resizing or element-wise operations, or "
MATRICES = {"mv": "self", "addmv": "mat", "dot": "self"}
"""Products with a vector, which torch does not count, and their matrix."""
# Importing them fills HANDLERS.
READINGS = (
    elementwise, rearranging, joining, parts, writing, windows, patches, resampling, sums,
)  # fmt: skip


def trace(module: nn.Module, input: tuple[int, ...] = (3, 32, 32)) -> Graph:
    """The graph of `module` for one image of shape `input`: channels, then 1 to 3 sizes.

    The module is left as it was.  Of several outputs the deepest, computed from most
    operations, is analyzed.

    Raises:
        UnknownOperationError: naming module, operation and the way out.
        TraceError: the module does not run on such an image, or not without data.
    """
    if not 2 <= len(input) <= 4:
        raise TraceError(f"input must be C,W or C,H,W or C,D,H,W, but got {list(input)}")
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise TraceError("the module has lazy parameters: state their sizes, or run it once first")
    image = image_for(module, input)
    recorder = _Recorder(module, image)
    run = torch.func.functionalize(AsFunction(module))
    with evaluating(module), _named(module, recorder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.no_grad(), Intent(recorder.recurring), recorder:
                outputs = run(image)
        except TraceError:
            raise
        except (Exception, SystemExit) as error:  # the module's code, or torch's on meta tensors
            raise TraceError(_failure(recorder.where(), input, error)) from error
    recorder.require_known(module)
    return recorder.graph(outputs)


def _failure(where: str, input: tuple[int, ...], error: BaseException) -> str:
    words = in_words(error)
    if NO_FORWARD in words:
        return f"{where} fails: {words}; write one as a method of its class, indented as __init__"
    if RECORDED in words:
        return (
            f"{where} is a recording by torch.jit, which does not run without data: check the "
            "module that it was made of"
        )
    if isinstance(error, NotImplementedError) or re.search(r"\b[Mm]eta\b", str(error)):
        return (
            f"{where} does not run without data, which the checker has none of: {words}; check "
            "a part of the network that asks for no values"
        )
    way = "mend its code, or " if isinstance(error, CODE) else ""
    return (
        f"{where} does not run on an input of shape {list(input)}, as the checker tries it "
        f"without data: {words}; {way}--input gives another shape"
    )


@contextmanager
def _named(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Tells the recorder which part of `module` runs."""
    paths = {id(part): path for path, part in module.named_modules()}

    def enter(part: nn.Module, _: object) -> None:
        recorder.path.append(paths.get(id(part), ""))

    def leave(part: nn.Module, _: object, __: object) -> None:
        recorder.path.pop()

    handles = (
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Follows the values that depend on the image through every operation."""

    def __init__(self, module: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path: list[str] = []
        size = tuple(image.shape[2:])
        self._module = module
        self._builder = Builder([Node("input", "", (), (), image.shape[1], size)])
        dims = ((), channels(image.shape[1]), *(along(a, n) for a, n in enumerate(size)))
        self._keep: list[Tensor] = []  # an id stays one tensor's as long as it lives
        self._values: dict[int, Value | Moved | None] = {}
        self._remember(image, Value(0, dims))
        trainable = (p for p in module.parameters() if p.requires_grad)
        self._unused = {id(p): p.numel() for p in trainable}
        self._total = sum(self._unused.values())
        self._weights: dict[int, frozenset[int]] = {
            id(p): frozenset({id(p)}) for p in module.parameters()
        }
        self._owned: dict[int, int] = {}
        self._foreign: dict[int, Tensor] = {}  # parameters that no module registers
        self._ran: set[int] = set()
        self._recurring = False

    def require_known(self, module: nn.Module) -> None:
        """Accepts a module that has no other parameters than before it ran.

        Raises:
            TraceError: it has made some, of which those before could not be told apart.
        """
        made = [name for name, p in module.named_parameters() if id(p) not in self._weights]
        if made:
            raise TraceError(
                f"the module makes parameters while it runs ({made[0]}), which would be counted "
                "only if it had run before: make them in __init__"
            )

    @contextmanager
    def recurring(self) -> Iterator[None]:
        """What runs meanwhile is of a recurrent layer: each step sees all those before."""
        self._recurring = True
        try:
            yield
        finally:
            self._recurring = False

    def where(self) -> str:
        """The innermost part that runs, in words."""
        path = self.path[-1] if self.path else ""
        return f"module {path!r}" if path else "the module"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        if any(leaf.is_meta for leaf in inputs):
            meta_args, meta_kwargs = tree_map(_to_meta, (args, kwargs))
        else:
            meta_args, meta_kwargs = args, kwargs
        out = func(*meta_args, **meta_kwargs)
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self._meet(inputs)
        used = frozenset().union(*(self._weights.get(id(leaf), frozenset()) for leaf in inputs))
        self._ran |= used
        name = func.overloadpacket.__name__.removesuffix("_")
        read = inputs[name in OVERWRITING :]
        known = [self._values[id(leaf)] for leaf in read if id(leaf) in self._values]
        if any(known) and name not in SHAPE_ONLY:
            self._follow(func, args, kwargs, out, tensors, used)
        elif known:  # a by-product stays one, until something of substance reads it
            for tensor in () if any(known) else tensors:
                self._remember(tensor, None)
        elif used:
            for tensor in tensors:
                self._keep.append(tensor)
                self._weights[id(tensor)] = used
        return out

    def _meet(self, inputs: Sequence[Tensor]) -> None:
        for leaf in inputs:
            if isinstance(leaf, nn.Parameter) and id(leaf) not in self._weights:
                self._foreign[id(leaf)] = leaf
                self._weights[id(leaf)] = frozenset({id(leaf)})

    def _follow(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        tensors: list[Tensor],
        used: frozenset[int],
    ) -> None:
        packet = func.overloadpacket
        name = packet.__name__.removesuffix("_")
        names = [argument.name for argument in func._schema.arguments]
        defaults = {
            a.name: a.default_value for a in func._schema.arguments if a.has_default_value()
        }
        arguments = defaults | dict(zip(names, args, strict=False)) | kwargs
        counted = flop_registry.get(packet)
        macs = counted(*args, **kwargs, out_val=out) // 2 if counted else 0
        if name in MATRICES:
            macs = arguments[MATRICES[name]].numel()
        call = Call(
            self._builder, self._label(name), name, arguments, out, macs, self._find, self._learned
        )
        handler = HANDLERS.get(name)
        if handler is None and torch.Tag.pointwise in func.tags:
            handler = elementwise.elementwise
        if self._recurring:
            handler = sums.recurrent
        if handler is None:
            raise UnknownOperationError(self._refusal(call, "it is not known what it reads", WAY))
        try:
            found = self._handled(call, handler, func, args, kwargs)
        except LayoutError as error:
            raise UnknownOperationError(self._refusal(call, str(error))) from None
        except Exception as error:  # ours, and not to be told as the module's
            fault = f"the checker itself failed ({in_words(error)}), please report it"
            raise UnknownOperationError(self._refusal(call, fault)) from error
        values = found if isinstance(found, list) else [found]
        for position, tensor in enumerate(tensors):
            value = values[position] if position < len(values) else None
            if isinstance(value, Value) and tuple(map(length, value.dims)) != tuple(tensor.shape):
                shape = tuple(map(length, value.dims))
                fault = f"it gives {list(tensor.shape)}, but was read as giving {list(shape)}"
                raise UnknownOperationError(self._refusal(call, fault))
            self._remember(tensor, value)
        if isinstance(values[0], Value):
            self._credit(values[0].node, used)

    def _handled(
        self, call: Call, handler: Handler, func: Any, args: Any, kwargs: Any
    ) -> Value | list[Value] | list[Value | Moved]:
        """What `handler` finds, or else where each element comes from that `func` moves."""
        tensor = call.arguments.get("self")
        before = self._values.get(id(tensor))
        if not isinstance(before, Moved):
            try:
                return handler(call)
            except LayoutError as error:
                if before is None or call.name not in MOVING:
                    raise
                before = numbered(call, before, str(error))
        if call.name not in MOVING:
            raise LayoutError(before.reason)

        def run(numbers: Tensor) -> object:
            given = tree_map(lambda leaf: numbers if leaf is tensor else leaf, (args, kwargs))
            return func(*given[0], **given[1])

        return move(call, before, run)

    def _label(self, name: str) -> str:
        return (self.path[-1] if self.path else "") or public_name(name)

    def _refusal(self, call: Call, reason: str, way: str = "") -> str:
        shapes = " and ".join(
            dict.fromkeys(
                str(list(leaf.shape))
                for leaf in tree_leaves(call.arguments)
                if isinstance(leaf, Tensor) and self._values.get(id(leaf))
            )
        )
        return (
            f"{self.where()}: operation {call.name!r} on {shapes} cannot be analyzed: {reason}; "
            f"{way}check a part of the network that ends before it"
        )

    def _remember(self, tensor: Tensor, value: Value | Moved | None) -> None:
        self._keep.append(tensor)
        self._values[id(tensor)] = value

    def _find(self, tensor: Tensor) -> Value | None:
        value = self._values.get(id(tensor))
        if isinstance(value, Moved):
            raise LayoutError(value.reason)
        if value is None and id(tensor) in self._values:
            raise LayoutError("it reads a by-product (indices, statistics) of another operation")
        return value

    def _learned(self, tensor: Tensor) -> bool:
        """It is a parameter, or made of some."""
        return id(tensor) in self._weights

    def _credit(self, node: int, used: frozenset[int]) -> None:
        """Parameters belong to the row that first uses them, or to the last row before."""
        fresh = [weight for weight in used if weight in self._unused]
        nodes = self._builder.nodes
        while node and not nodes[node].kind:
            node = carriers(nodes, nodes[node])[0]
        for weight in fresh if node else ():
            self._owned[node] = self._owned.get(node, 0) + self._unused.pop(weight)

    def _ending(self, output: Tensor) -> Value | None:
        """The map that an output holds, where it is one."""
        value = self._values.get(id(output))
        if isinstance(value, Moved):
            raise LayoutError(value.reason)
        if value is None:
            return None
        where = self._builder.nodes[value.node].name
        call = Call(self._builder, where, "view", {}, output, 0, self._find, self._learned)
        return elementwise.gridded(call, value)

    def graph(self, outputs: Sequence[Tensor]) -> Graph:
        """What was recorded, seen from the deepest of `outputs`."""
        try:
            found = [value for value in map(self._ending, outputs) if value]
        except LayoutError as error:
            raise UnknownOperationError(f"the output cannot be analyzed: {error}") from None
        ends = {value.node for value in found}
        if not outputs:
            raise TraceError("the module gives no tensor: its forward must return one")
        if not ends:
            raise TraceError("the module's output does not depend on the image")
        nodes = tuple(
            replace(
                node,
                parameters=self._owned.get(index, 0),
                operations=tuple(self._builder.operations.get(index, ())),
            )
            for index, node in enumerate(self._builder.nodes)
        )
        output = max(sorted(ends), key=lambda end: len(ancestors(nodes, end)))
        graph = Graph(nodes, last_maps(nodes, output), self._total, graph_structure(nodes, output))
        try:
            for end in found:
                elementwise.require_alike(self._builder, end, _grid(end))
            require_seen(graph)
        except LayoutError as error:
            raise UnknownOperationError(f"the output cannot be analyzed: {error}") from None
        notes = (
            *self._builder.notes,
            *about_pooling(graph, output, self._builder.counted),
            *about_weights(self._module, self._ran, self._foreign),
        )
        return replace(graph, notes=tuple(dict.fromkeys(notes)))


def _grid(value: Value) -> tuple[Dim, ...]:
    """The dimensions of an output that is no plain vector."""
    return value.dims if sum(length(dim) > 1 for dim in value.dims) > 1 else ()


def _is_composite(func: Any) -> bool:
    """It is made of other operations, but arrives whole, as all do in inference mode."""
    known = func.overloadpacket.__name__ in HANDLERS or torch.Tag.pointwise in func.tags
    return not known and func._can_decompose()


def _to_meta(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("meta")
    return leaf.to("meta") if isinstance(leaf, Tensor) and not leaf.is_meta else leaf
