"""A network that is one function, for tests of what it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from search.analysis.table import Analysis, analyze
from search.analysis.tracing.trace import trace


class Net(nn.Module):
    """A forward function with its parts."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def analyzed(module: nn.Module, shape: tuple[int, ...] = (3, 96, 96)) -> Analysis:
    return analyze(trace(module, shape))
