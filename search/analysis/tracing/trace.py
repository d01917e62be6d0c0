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

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from search.analysis.graph import Graph, Node, ancestors, graph_structure, last_maps
from search.analysis.tracing import elementwise, parts, rearranging, sums, windows
from search.analysis.tracing.calls import HANDLERS, OVERWRITING, SHAPE_ONLY, Builder, Call, Value
from search.analysis.tracing.layout import LayoutError, along, channels, length
from search.analysis.tracing.loading import TraceError, UnknownOperationError, in_words

# Importing them fills HANDLERS.
READINGS = (elementwise, rearranging, parts, windows, sums)


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
    try:
        return _record(module, input, functional=True)
    except _CustomFunctionError:
        return _record(module, input, functional=False)


class _CustomFunctionError(Exception):
    """The module uses `torch.autograd.Function`, which torch cannot functionalize."""


def _record(module: nn.Module, input: tuple[int, ...], *, functional: bool) -> Graph:
    image = torch.empty((1, *input), device="meta")
    recorder = _Recorder(module, image)
    runner = _Runner(module)
    run = torch.func.functionalize(runner) if functional else runner
    with _evaluating(module), _named(module, recorder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.no_grad(), _Intent(), recorder:
                outputs = run(image)
        except TraceError:
            raise
        except (Exception, SystemExit) as error:  # the module's code, or torch's on meta tensors
            if functional and "autograd.Function" in str(error):
                raise _CustomFunctionError from None
            raise TraceError(
                f"{recorder.where()} does not run on an input of shape {list(input)} (--input "
                f"gives another) without data: {in_words(error)}"
            ) from error
    return recorder.graph(outputs)


class _Runner:
    """The module as a function of the image to a flat tuple of tensors."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self._module(image)))


def _tensors(result: object) -> Iterator[Tensor]:
    """All tensors in what a module returned."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Mapping):
        for part in result.values():
            yield from _tensors(part)
    elif isinstance(result, list | tuple):
        for part in result:
            yield from _tensors(part)
    elif hasattr(result, "__dict__"):
        yield from _tensors(vars(result))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without the fused attention that hides its operations."""
    training = [part for part in module.modules() if part.training]
    fused = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for part in training:
            part.training = True


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


class _Side(int):
    """A size that was read off a tensor, so that it follows the image's."""


class _Intent(TorchFunctionMode):
    """Keeps what is lost on the way down to torch's operations.

    Pooling over a window as large as the map, where that size was read off the map, is
    global pooling.  And a circular border is read as a copied one: what stands in a border
    counts as nothing, but torch makes a circular one of copies from the far side, with
    which units there would see the whole image.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "pad" and "circular" in (*args[2:], *kwargs.values()):
            args, kwargs = args[:2], {**kwargs, "mode": "replicate"}
        elif name.startswith(("avg_pool", "max_pool")) and _follows_image(*args[:2], **kwargs):
            reduce = torch.mean if name.startswith("avg") else torch.amax
            rank = int(name[len("avg_pool")])
            return reduce(args[0], tuple(range(-rank, 0)), keepdim=True)
        out = func(*args, **kwargs)
        if isinstance(out, torch.Size):
            return torch.Size(_Side(size) for size in out)
        return _Side(out) if name == "size" else out


def _follows_image(tensor: Tensor, kernel_size: object, **_: object) -> bool:
    """Every entry of the window is a size read off a tensor, and as large as this one."""
    entries = list(kernel_size) if isinstance(kernel_size, list | tuple) else [kernel_size]
    sizes = list(tensor.shape[2:])
    whole = entries * len(sizes) if len(entries) == 1 else entries
    return whole == sizes and all(isinstance(entry, _Side) for entry in entries)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Follows the values that depend on the image through every operation."""

    def __init__(self, module: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path: list[str] = []
        size = tuple(image.shape[2:])
        self._builder = Builder([Node("input", "", (), (), image.shape[1], size)])
        dims = ((), channels(image.shape[1]), *(along(a, n) for a, n in enumerate(size)))
        self._keep: list[Tensor] = []  # an id stays one tensor's as long as it lives
        self._values: dict[int, Value | None] = {}
        self._remember(image, Value(0, dims))
        trainable = (p for p in module.parameters() if p.requires_grad)
        self._unused = {id(p): p.numel() for p in trainable}
        self._total = sum(self._unused.values())
        self._weights: dict[int, frozenset[int]] = {
            id(p): frozenset({id(p)}) for p in module.parameters()
        }
        self._owned: dict[int, int] = {}

    def where(self) -> str:
        """The innermost part that runs, in words."""
        path = self.path[-1] if self.path else ""
        return f"module {path!r}" if path else "the module"

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(leaf.is_meta for leaf in inputs):
            meta_args, meta_kwargs = tree_map(_to_meta, (args, kwargs))
        else:
            meta_args, meta_kwargs = args, kwargs
        out = func(*meta_args, **meta_kwargs)
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        used = frozenset().union(*(self._weights.get(id(leaf), frozenset()) for leaf in inputs))
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
        call = Call(self._builder, self._label(name), name, arguments, out, macs, self._find)
        handler = HANDLERS.get(name)
        if handler is None and torch.Tag.pointwise in func.tags:
            handler = elementwise.elementwise
        if handler is None:
            raise UnknownOperationError(self._refusal(name, "it is not known what it reads"))
        if func._schema.is_mutable and self._shared(args[0]):
            raise UnknownOperationError(self._refusal(name, "it writes through a view"))
        try:
            found = handler(call)
        except LayoutError as error:
            raise UnknownOperationError(self._refusal(name, str(error))) from None
        values = found if isinstance(found, list) else [found]
        for position, tensor in enumerate(tensors):
            value = values[position] if position < len(values) else None
            if value is not None and tuple(map(length, value.dims)) != tuple(tensor.shape):
                raise UnknownOperationError(self._refusal(name, "its shape is not understood"))
            self._remember(tensor, value)
        self._credit(values[0].node, used)

    def _shared(self, target: Tensor) -> bool:
        """Other values lie in the same memory.  (Functionalized, nothing is written at all.)"""
        memory = target.untyped_storage()._cdata
        return any(
            tensor is not target and tensor.untyped_storage()._cdata == memory
            for tensor in self._keep
        )

    def _label(self, name: str) -> str:
        return (self.path[-1] if self.path else "") or name

    def _refusal(self, name: str, reason: str) -> str:
        return (
            f"{self.where()}: operation {name!r} cannot be analyzed: {reason}; replace it by "
            "convolution, pooling, resizing or element-wise operations, or check a part of "
            "the network that ends before it"
        )

    def _remember(self, tensor: Tensor, value: Value | None) -> None:
        self._keep.append(tensor)
        self._values[id(tensor)] = value

    def _find(self, tensor: Tensor) -> Value | None:
        value = self._values.get(id(tensor))
        if value is None and id(tensor) in self._values:
            raise LayoutError("it reads a by-product (indices, statistics) of another operation")
        return value

    def _credit(self, node: int, used: frozenset[int]) -> None:
        """Parameters belong to the row that first uses them, or to the last row before."""
        fresh = [weight for weight in used if weight in self._unused]
        while node and not self._builder.nodes[node].kind:
            node = self._builder.nodes[node].inputs[0]
        for weight in fresh if node else ():
            self._owned[node] = self._owned.get(node, 0) + self._unused.pop(weight)

    def graph(self, outputs: Sequence[Tensor]) -> Graph:
        """What was recorded, seen from the deepest of `outputs`."""
        found = [self._values[id(tensor)] for tensor in outputs if id(tensor) in self._values]
        ends = {value.node for value in found if value is not None}
        if not ends:
            raise TraceError("the module's output does not depend on the image")
        nodes = tuple(
            replace(node, parameters=self._owned.get(index, 0))
            for index, node in enumerate(self._builder.nodes)
        )
        output = max(sorted(ends), key=lambda end: len(ancestors(nodes, end)))
        return Graph(
            nodes,
            last_maps(nodes, output),
            self._total,
            graph_structure(nodes, output),
            notes=tuple(dict.fromkeys(self._builder.notes)),
        )


def _to_meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) and not leaf.is_meta else leaf
