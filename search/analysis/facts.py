"""TODO: one line."""

from __future__ import annotations

import math
from functools import cached_property

from search.analysis.chains import (
    _Chain,
    _chain,
    _classifier_parameters,
    _convolved,
    _gate_parameters,
    _gate_weights,
    _pooled,
    _strays,
    _tail,
    _weights,
)
from search.analysis.graph import Structure, _peak_bytes
from search.analysis.lowering import lower
from search.networks.architecture import Architecture, Unit


def count_parameters(architecture: Architecture) -> int:
    """Trainable parameters; equals the built module's."""
    return Summary(architecture).parameters


def count_macs(architecture: Architecture) -> int:
    """Multiply-adds of convolutions and the classifier for one input."""
    return Summary(architecture).macs


class Summary:
    """What the limits ask about an architecture, computed when they ask.

    The receptive field is the closed form of a chain.  It is exact: a residual unit must
    keep the map's size in every layer, so its path is centred on the shortcut and
    contains it.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._chains: list[_Chain] = []
        self._gates: list[Unit] = []
        for block in architecture.blocks:
            for unit in block.units:
                self._chains.append(_chain(unit.layers))
                if unit.squeeze_excite:
                    self._gates.append(unit)
            if block.transition:
                self._chains.append(_chain(block.transition))

    @property
    def receptive_field(self) -> tuple[int | None, ...]:
        field, jump = 1, 1
        for chain in self._chains:
            field += chain.growth * jump
            jump *= chain.stride
        return field, field

    @property
    def parameters(self) -> int:
        total = _classifier_parameters(self._architecture)
        for chain in self._chains:
            total += chain.parameters
        for unit in self._gates:
            total += _gate_parameters(unit)
        return total

    @cached_property
    def feature_map(self) -> tuple[int, ...]:
        _, height, width = self._architecture.input
        for chain in self._chains:
            if not chain.keeps_size:
                for layer in chain.layers:
                    height, width = _convolved(layer, height), _convolved(layer, width)
        return height, width

    @property
    def macs(self) -> int:
        """Layer by layer where the map changes its size."""
        _, height, width = self._architecture.input
        total = sum(map(_gate_weights, self._gates))
        for chain in self._chains:
            if chain.keeps_size:
                total += chain.weights * height * width
                continue
            for layer in chain.layers:
                height, width = _convolved(layer, height), _convolved(layer, width)
                total += _weights(layer) * height * width
        cells = math.prod(_pooled(self._architecture, (height, width)))
        return total + self._architecture.features * self._architecture.output.classes * cells

    @property
    def activation_bytes(self) -> int:
        return _peak_bytes(lower(self._architecture))

    @cached_property
    def structure(self) -> Structure:
        strided = separable = dilated = depth = 0
        was_depthwise = False
        for chain in self._chains:
            strided += chain.strided
            separable += chain.separable + (was_depthwise and chain.starts_pointwise)
            dilated += chain.dilated
            depth += len(chain.layers)
            was_depthwise = chain.ends_depthwise
        blocks = self._architecture.blocks
        missing = tuple(
            block.name for block in blocks[:-1] if not _chain(_tail(block)).ends_in_transition
        )
        transitions = len(blocks) - 1 - len(missing)
        return Structure(
            transitions=transitions,
            strays=() if strided == transitions else _strays(blocks, missing),
            missing=missing,
            output_cells=math.prod(_pooled(self._architecture, self.feature_map)),
            separable=separable,
            dilated=dilated,
            depth=depth,
        )
