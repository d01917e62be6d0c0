"""A network of the landscape as a row of numbers: its choices and its facts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from search.analysis.chains import layer_parameters, layer_weights, side_after
from search.analysis.facts import Facts
from search.config.sections import StudyConfig
from search.domains import Choice, FloatRange, Scalar
from search.networks.architecture import Architecture

Floats = NDArray[np.float64]


def features(config: StudyConfig, choices: Mapping[str, Scalar], network: Architecture) -> Floats:
    """The choices that have an effect, lists of words one number for each word; then
    receptive field, parameters, MACs, convolutions, narrowest layer, and each block's shares."""
    row: list[float] = []
    for name, domain in config.parameters.items():
        effective = _effective(name, choices)
        if isinstance(domain, Choice) and isinstance(domain.values[0], str):
            row += [float(effective and choices[name] == value) for value in domain.values]
        elif isinstance(domain, FloatRange) and domain.log:
            row.append(math.log(float(choices[name])))
        else:
            row.append(float(choices[name]) if effective else 0.0)
    return np.array(row + _facts(network))


def _effective(name: str, choices: Mapping[str, Scalar]) -> bool:
    """A block without units has a transition alone."""
    block, _, rest = name.partition(".")
    if f"{block}.depth" not in choices or rest in ("depth", "width") or rest.startswith("tran"):
        return True
    return bool(choices[f"{block}.depth"])


def _facts(network: Architecture) -> list[float]:
    facts = Facts(network)
    field = facts.smaller_field or 0
    layers = [layer for block in network.blocks for layer in block.layers]
    shares = []
    side = network.input[1]
    for block in network.blocks:
        macs = 0
        for layer in block.layers:
            side = side_after(layer, side)
            macs += layer_weights(layer) * side * side
        parameters = sum(map(layer_parameters, block.layers))
        shares += [macs / facts.macs, parameters / facts.parameters]
    narrowest = min(layer.out_channels for layer in layers)
    counts = (field, facts.parameters, facts.macs, len(layers), narrowest)
    return [*map(math.log, counts), *shares]
