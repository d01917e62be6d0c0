"""The receptive field as the gradient shows it, and other truths taken from torch itself."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

LINEAR = (nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.BatchNorm2d, nn.Dropout)


def linearize(module: nn.Module) -> nn.Module:
    """`module` in float64 with positive weights, activations and norms taken out, and
    maxima replaced by averages: no path vanishes and none cancels another."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LINEAR):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                average = nn.AvgPool2d(
                    child.kernel_size, child.stride, child.padding, child.ceil_mode
                )
                setattr(parent, name, average)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_().add_(0.01)
    return module


def support(
    module: nn.Module, shape: tuple[int, ...], reach: int = 2
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Per axis the widest span of input that moves one unit near the middle of the map
    that `module` gives, and the pixels in that span that truly do.

    All units up to `reach` from the middle are tried, for the phases of up-sampling on each axis.
    """
    image = torch.rand(1, *shape, dtype=torch.float64, requires_grad=True)
    output = module(image)
    rank = len(shape) - 1
    best = [(0, 0)] * rank
    sides = [
        sorted({min(max(n // 2 + offset, 0), n - 1) for offset in range(-reach, reach + 1)})
        for n in output.shape[2:]
    ]
    for unit in itertools.product(*sides):
        (gradient,) = torch.autograd.grad(
            output[(slice(None), slice(None), *unit)].sum(), image, retain_graph=True
        )
        reached = gradient[0].abs().sum(0) > 0
        best = [max(old, _line(reached, axis)) for axis, old in enumerate(best)]
    spans, seen = zip(*best, strict=True)
    return tuple(spans), tuple(seen)


def _line(reached: Tensor, axis: int) -> tuple[int, int]:
    others = [other for other in range(reached.dim()) if other != axis]
    line = reached.any(dim=others) if others else reached
    hits = line.nonzero().flatten().tolist()
    return (hits[-1] - hits[0] + 1, len(hits)) if hits else (0, 0)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Half of what torch counts for one input."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


def shapes(module: nn.Module, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Sizes of the maps that the convolutions give, in order of execution."""
    found: list[tuple[int, ...]] = []
    handles = [
        part.register_forward_hook(lambda _, __, out: found.append(tuple(out.shape[2:])))
        for part in module.modules()
        if isinstance(part, nn.Conv2d)
    ]
    with torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return found
