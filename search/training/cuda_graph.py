"""A function of tensors as a CUDA graph: recorded once, then replayed by one launch.

A training step of a small network is hundreds of kernels of a few microseconds, which
Python launches more slowly than the device runs them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3


class Captured:
    """`function`, whose first `WARM_UP` calls run as they are and whose later ones replay.

    The warm-up makes what is made on first use (momentum, cuDNN's choice of algorithm) and
    may not be made in a recording.  `function` must not wait for the device, must take
    tensors of one shape on every call, and its result is overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._calls = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._output = torch.empty(0)

    def __call__(self, *inputs: Tensor) -> Tensor:
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._warm_up(inputs)
        if self._graph is None:
            self._graph = self._record(inputs)
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._output

    def _warm_up(self, inputs: tuple[Tensor, ...]) -> Tensor:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            output = self._function(*inputs)
        current.wait_stream(self._stream)
        return output

    def _record(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        self._inputs = tuple(given.clone() for given in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._output = self._function(*self._inputs)
        return graph
