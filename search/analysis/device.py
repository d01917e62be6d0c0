"""What layers become on a microcontroller in int8, operation by operation, and what each costs.

LiteRT folds normalization, ReLU and ReLU6 into convolutions, reads images as (N, H, W, C), and
gives padding that TensorFlow's "SAME" does not mean an operation of its own.  An operation costs
bytes of the file (*flash*) and of TensorFlow Lite Micro's arena: its output in the *head* for as
long as somebody reads it, its state in the *tail* for ever.

The numbers are those of litert-torch 0.10, ai-edge-quantizer 0.10 and tflite-micro of October
2026, read off their files and off `RecordingMicroAllocator`, where pointers have 64 bits; where
they have 32, a tail is smaller.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from search.analysis.arena import Buffer, aligned
from search.analysis.chains import convolved

FUSED = frozenset({"relu", "relu6"})
LACKING = frozenset({"gelu", "elu", "selu", "celu", "mish", "softplus", "erf"})
RUNNING = "relu, relu6, hardswish and silu"
_KERNELS = {"hardswish": "HARD_SWISH", "sigmoid": "LOGISTIC"}  # of others: about a product

# Tail: a registered operation and a tensor; the state of an operation, and its options.
_NODE, _TENSOR = 64, 24
_STATE = {
    "CONV_2D": 80 + 28,
    "DEPTHWISE_CONV_2D": 80 + 28,
    "FULLY_CONNECTED": 80 + 16,
    "PAD": 64,
    "MEAN": 48 + 28,
    "LOGISTIC": 32,
    "MUL": 32 + 4,
    "ADD": 64 + 8,
    "HARD_SWISH": 32,
    "RESHAPE": 20,
    "AVERAGE_POOL_2D": 48 + 28,
    "MAX_POOL_2D": 48 + 28,
}

# Flash: tables of a flatbuffer (flatbuffers.dev, "FlatBuffer Internals"), each with the four
# bytes that point at it.  Tables of equal fields share a layout.
_CODE, _LAYOUT = 16, 12
_SCALE, _ZERO_POINT = 4, 8
_CONSTANT = 52  # a tensor's record and its buffer's; axes, numbers and quantization aside
_QUANTIZED = 12  # of a constant by channels; scales and zero points aside
_MAP = 48 + _SCALE + _ZERO_POINT  # a feature map's record, quantized; its axes aside
_OPTIONS = {
    "CONV_2D": 12,
    "DEPTHWISE_CONV_2D": 16,
    "FULLY_CONNECTED": 8,
    "PAD": 4,
    "MEAN": 4,
    "MUL": 4,
    "ADD": 4,
    "AVERAGE_POOL_2D": 24,
    "MAX_POOL_2D": 24,
}

Size = tuple[int, ...]


class Convolution(NamedTuple):
    """A convolution with what follows it; one entry per axis of kernel, stride, padding (the
    same on both sides) and dilation.  `activations` are names as torch has them."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    activations: tuple[str, ...] = ()

    def size_after(self, size: Size) -> Size:
        """Units that are left of a map of `size`."""
        axes = zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(convolved(n, k, s, 2 * p, d) for n, k, s, p, d in axes)

    def is_same(self, size: Size) -> bool:
        """Whether TensorFlow's "SAME" pads a map of `size` so: on both sides as much as
        ceil(size / stride) units need."""
        axes = zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return all(
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) == 2 * p for n, k, s, p, d in axes
        )


class Shared(NamedTuple):
    """Bytes that a network pays once, however many operations need them."""

    key: tuple[object, ...]
    flash: int
    tail: int


@dataclass
class Program:
    """Operations one after the other, as they are added.

    A feature map is named by its index in `buffers`; map 0 is there before the first step.
    """

    buffers: list[Buffer]
    scratch: list[Buffer] = field(default_factory=list)
    steps: int = 0
    tail: int = 0
    flash: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    shared: set[Shared] = field(default_factory=set)
    lacking: set[str] = field(default_factory=set)

    def add(
        self,
        kind: str,
        shape: Size,
        *sources: int,
        constants: int = 0,
        options: int = 0,
    ) -> int:
        """An operation on maps `sources` that writes a map of `shape`, without the batch, and
        returns that.

        It also reads `constants` tensors of the file; `options` are bytes of its record that
        others of its kind do without.
        """
        self.steps += 1
        for source in sources:
            size, first, _ = self.buffers[source]
            self.buffers[source] = size, first, self.steps
        self.buffers.append((aligned(math.prod(shape)), self.steps, self.steps))
        self.kinds[kind] += 1
        self.tail += _NODE + _TENSOR + _STATE[kind]
        self.flash += _record(kind, len(sources) + constants, options) + _MAP
        self._shape(1, *shape)
        self._share("code", kind, flash=_CODE)
        if kind not in _OPTIONS:
            self._share("no options", flash=_LAYOUT)
        return len(self.buffers) - 1

    def convolution(self, source: int, size: Size, layer: Convolution) -> tuple[int, Size]:
        """`layer` on map `source` of `size`, and what follows it; the map that it gives, and
        the size of that."""
        padded, same = source, any(layer.padding) and layer.is_same(size)
        if any(layer.padding) and not same:
            sides = (n + 2 * p for n, p in zip(size, layer.padding, strict=True))
            padded = self.add("PAD", (*sides, layer.in_channels), source, constants=1)
            self._numbers("padding", layer.padding, shape=(4, 2))
        kept = layer.size_after(size)
        shape = (*kept, layer.out_channels)
        result = self._window(padded, shape, layer, same=same)
        for name in layer.activations:
            result = self.activation(result, shape, name)
        return result, kept

    def _window(self, source: int, shape: Size, layer: Convolution, *, same: bool) -> int:
        channels = layer.out_channels
        # With one input channel, every filter is a channel's own.
        depthwise = layer.groups == layer.in_channels
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        fused = layer.activations[:1] and layer.activations[0] in FUSED
        dilated = max(layer.dilation) > 1
        outer, inner = (1, channels) if depthwise else (channels, layer.in_channels // layer.groups)
        self._weights((outer, *layer.kernel, inner), channels)
        if depthwise:  # it says which axis has the channels
            self.flash += 4
            self._share("axis", flash=22)
        self._share(kind, same, fused, dilated, flash=_LAYOUT + 2 * bool(fused) + 6 * dilated)
        options = 4 * (not same) + 4 * bool(fused) + 8 * dilated
        return self.add(kind, shape, source, constants=2, options=options)

    def activation(self, source: int, shape: Size, name: str) -> int:
        """A function of each value; those that a convolution has folded in cost nothing."""
        if name in FUSED:
            return source
        if name in LACKING:
            self.lacking.add(name)
        if name == "silu":
            factors = self.add("LOGISTIC", shape, source)
            return self.add("MUL", shape, source, factors)
        return self.add(_KERNELS.get(name, "MUL"), shape, source)

    def mean(self, source: int, channels: int, axes: tuple[int, int], *, keep: bool) -> int:
        """Over space; `keep` says whether (1, 1, C) is left, or (C,)."""
        self._numbers("numbers", axes, shape=(2,))
        if keep:
            self._share("kept", flash=_LAYOUT)
        shape = (1, 1, channels) if keep else (channels,)
        result = self.add("MEAN", shape, source, constants=1, options=4 * keep)
        self.scratch.append((aligned(4 * channels), self.steps, self.steps))  # its sums
        return result

    def linear(self, source: int, features: int, outputs: int) -> int:
        """A fully connected layer."""
        self._weights((outputs, features), outputs)
        self._share("FULLY_CONNECTED", flash=_LAYOUT)
        return self.add("FULLY_CONNECTED", (outputs,), source, constants=2)

    def flat(self, source: int, count: int) -> int:
        """The same numbers as one row."""
        self._numbers("numbers", (1, count), shape=(2,))
        return self.add("RESHAPE", (count,), source, constants=1)

    def _weights(self, shape: Size, channels: int) -> None:
        """Filters and biases in the file; a multiplier and a shift per channel in the tail."""
        for size, own in ((math.prod(shape), shape), (4 * channels, (channels,))):
            self.flash += _CONSTANT + aligned(size, 4) + _QUANTIZED + _SCALE * channels
            self._shape(*own)
            self._list("zero points", channels, size=4 + _ZERO_POINT * channels, count=channels)
        self.tail += 2 * _TENSOR + 2 * aligned(4 * channels)

    def _numbers(self, *key: object, shape: Size) -> None:
        """A tensor of whole numbers, of `shape`, that other operations may read as well."""
        self._share(*key, flash=_CONSTANT + 4 * (len(shape) + math.prod(shape)), tail=_TENSOR)

    def _shape(self, *shape: int) -> None:
        self._list("shape", shape, size=4 * len(shape), count=len(shape))

    def _list(self, *key: object, size: int, count: int) -> None:
        """`count` whole numbers, in `size` bytes; equal lists lie in the file once, but for
        those of one number (see `bundles.int8.sharing`)."""
        if count > 1:
            self._share(*key, flash=size)
        else:
            self.flash += size

    def _share(self, *key: object, flash: int, tail: int = 0) -> None:
        self.shared.add(_one(key, flash, tail))


_one = lru_cache(maxsize=65_536)(Shared)  # sets compare an object with itself at once


def _record(kind: str, inputs: int, options: int) -> int:
    """Bytes of an operation's record; its options are absent, or a table."""
    own = _OPTIONS.get(kind, 0)
    return 32 + 4 * inputs + (8 + own + options if own else 0)
