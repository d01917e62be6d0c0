"""The facts that limits ask about an architecture, computed when they ask."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, singledispatch

from search.analysis.chains import (
    Chains,
    gate_weights,
    layer_weights,
    pooled,
    side_after,
)
from search.analysis.graph import peak_bytes
from search.analysis.lowering import lower
from search.analysis.memory import Memory, memory
from search.networks.architecture import Architecture
from search.networks.network import Network


def count_parameters(architecture: Architecture) -> int:
    """Trainable parameters; equals the built module's."""
    return Facts(architecture).parameters


def count_macs(architecture: Architecture) -> int:
    """Multiply-adds of convolutions and the classifier for one input."""
    return Facts(architecture).macs


@singledispatch
def macs_at(network: Network, size: tuple[int, int]) -> int:
    """Multiply-adds for one input of that height and width."""
    raise NotImplementedError(type(network))


@macs_at.register
def _(network: Architecture, size: tuple[int, int]) -> int:
    return count_macs(replace(network, input=(network.input[0], *size)))


class Facts(Chains):
    """What the limits ask about an architecture, computed when they ask.

    The receptive field is the closed form of a chain.  It is exact: a residual unit must
    keep the map's size in every layer, so its path is centred on the shortcut and
    contains it.
    """

    notes: tuple[str, ...] = ()

    @property
    def smaller_field(self) -> int | None:
        """In pixels, on either axis: all kernels are square."""
        field, jump = 1, 1
        for chain in self._chains:
            field += chain.growth * jump
            jump *= chain.stride
        return field

    @property
    def receptive_field(self) -> tuple[int | None, ...]:
        return (self.smaller_field,) * 2

    @property
    def macs(self) -> int:
        """Layer by layer where the map changes its size."""
        _, height, width = self._architecture.input
        total = sum(map(gate_weights, self._gates))
        for chain in self._chains:
            if chain.keeps_size:
                total += chain.weights * height * width
                continue
            for layer in chain.layers:
                height, width = side_after(layer, height), side_after(layer, width)
                total += layer_weights(layer) * height * width
        cells = math.prod(pooled(self._architecture, (height, width)))
        return total + self._architecture.features * self._architecture.output.classes * cells

    @property
    def activation_bytes(self) -> int:
        return peak_bytes(lower(self._architecture))

    @cached_property
    def memory(self) -> Memory:
        """On a microcontroller, in int8."""
        return memory(self._architecture)
