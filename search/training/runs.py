"""In which order the layers of a network run, and on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Run(NamedTuple):
    """One run of a layer: `given` is what it read first, None where it names all that it reads."""

    name: str
    layer: nn.Module
    given: Any
    result: Any


def runs(network: nn.Module, image: Tensor, layers: Mapping[str, nn.Module]) -> list[Run]:
    """Those of `layers`, which are within `network`, on one `image`, in their order."""
    found: list[Run] = []

    def noted(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(layer: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            found.append(Run(name, layer, given[0] if given else None, result))

        return hook

    handles = [layer.register_forward_hook(noted(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return found
