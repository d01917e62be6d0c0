"""A module as a plain function of its image: how it is run for the tracer to listen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, FunctionCtx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


class AsFunction:
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


def image_for(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """An image without data, of the type that the module's weights have."""
    types = (p.dtype for p in module.parameters() if p.is_floating_point())
    return torch.empty((1, *shape), device="meta", dtype=next(types, None))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without the fused attention that hides its operations.

    The flags are set one by one: `eval` may be overridden to change the module for good, and
    an exported program refuses it.
    """
    training = [part for part in module.modules() if part.training]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for part in training:
            part.training = False
        with _plain_functions():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for part in training:
            part.training = True


@contextmanager
def _plain_functions() -> Iterator[None]:
    """Custom `autograd.Function`s run their forward alone: there are no gradients here, and
    torch functionalizes no other form of them."""
    apply = vars(Function)["apply"]
    Function.apply = classmethod(_forward)
    try:
        yield
    finally:
        Function.apply = apply


def _forward(function: Any, *args: Any, **kwargs: Any) -> Any:
    if function.setup_context is not Function.setup_context:
        return function.forward(*args, **kwargs)
    return function.forward(_Context(len(args)), *args, **kwargs)


class _Context(FunctionCtx):
    """What a forward is given to keep things for a backward, which never comes."""

    def __init__(self, arguments: int) -> None:
        self.needs_input_grad = (False,) * arguments


RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu")


class Intent(TorchFunctionMode):
    """Keeps what is lost on the way down to torch's operations.

    `recurrent` is entered while a recurrent layer runs.  A circular border is read as a copied
    one: what stands in a border counts as nothing, but torch makes a circular one of copies
    from the far side.  And nothing moves to a device: there are no data.
    """

    def __init__(self, recurrent: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self._recurrent = recurrent

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "pad" and "circular" in (*args[2:], *kwargs.values()):
            args, kwargs = args[:2], {**kwargs, "mode": "replicate"}
        if name in ("cuda", "cpu") and isinstance(args[0], Tensor):
            return args[0]
        if name == "to" and isinstance(args[0], Tensor):
            return args[0].type(_type(*args[1:], **kwargs) or args[0].dtype)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "meta":
            kwargs["device"] = torch.device("cpu")  # its values may steer the module
        if name in RECURRENT:  # these insist on one device for all
            with self._recurrent():
                return func(*tree_map(_on_meta, args), **kwargs)
        return func(*args, **kwargs)


def _type(*args: Any, **kwargs: Any) -> torch.dtype | None:
    """The type that `Tensor.to` is asked for in one of its many ways."""
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, torch.dtype):
            return argument
        if isinstance(argument, Tensor):
            return argument.dtype
    return None


def _on_meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) else leaf
