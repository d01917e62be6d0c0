"""A module that somebody else wrote, as a training takes it.

A recipe does to its layers what it does to ours where they are what it takes them for, which
one run of the module tells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from search.training.runs import Run, runs

_WEIGHTED = (nn.Conv2d, nn.Linear)


class Foreign(nn.Module):
    """`module`, which maps images (N, *input) to logits (N, classes).

    It gets images in channels_last where it takes them so: a `view` across channels does not.
    """

    def __init__(self, module: nn.Module, input: tuple[int, int, int]) -> None:
        super().__init__()
        self.module = module.eval()
        channels, height, width = input
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(2, height, width, channels, generator=generator).permute(0, 3, 1, 2)
        self.takes_channels_last = _takes_channels_last(module, image)
        layers = {n: m for n, m in module.named_modules() if isinstance(m, _WEIGHTED)}
        uses = [run for run in runs(self, image, layers) if run.given is not None]
        # Names, for a copy has layers of its own.
        self._trainable = [name for name, p in module.named_parameters() if p.requires_grad]
        self._trunk = [use.name for use in uses[:-1] if _is_trunk(use)]
        reads = bool(uses) and _reads(uses[0], image) and len(self._trainable) > 1
        self._first = uses[0].name if reads else None

    def forward(self, x: Tensor) -> Any:
        if not self.takes_channels_last:  # `contiguous` takes one channel for both
            x = x.clone(memory_format=torch.contiguous_format)
        return self.module(x)

    @property
    def first(self) -> nn.Conv2d | None:
        """The plain convolution that reads the image itself, if one does."""
        return None if self._first is None else self._convolution(self._first)

    @property
    def trunk(self) -> list[Tensor]:
        """The weights of dense convolutions on maps, but for one that gives the logits."""
        return [self._convolution(name).weight for name in dict.fromkeys(self._trunk)]

    @property
    def trainable(self) -> list[str]:
        """The names of its parameters; those frozen by whitening are among them."""
        return list(self._trainable)

    def _convolution(self, name: str) -> nn.Conv2d:
        layer = self.module.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        return layer


def _takes_channels_last(module: nn.Module, image: Tensor) -> bool:
    try:
        module.to(memory_format=torch.channels_last)
        with torch.no_grad():
            module(image)
    except RuntimeError:
        module.to(memory_format=torch.contiguous_format)
        return False
    return True


def _is_trunk(use: Run) -> bool:
    layer = use.layer
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and _is_own(layer.weight)
        and use.result.shape[-2:].numel() > 1
    )


def _reads(use: Run, image: Tensor) -> bool:
    """Whether the layer is a plain convolution of the image itself, which has room for a patch."""
    layer = use.layer
    if type(layer) is not nn.Conv2d or layer.groups > 1 or not _is_own(layer.weight):
        return False
    spans = (d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    fits = all(span <= side for span, side in zip(spans, image.shape[2:], strict=True))
    return fits and torch.equal(use.given, image)


def _is_own(weight: Tensor) -> bool:
    """Whether the layer keeps the weight itself: a parametrized one is made anew for each run."""
    dense = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    return isinstance(weight, nn.Parameter) and weight.requires_grad and dense
