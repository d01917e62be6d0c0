"""From choices to layers: what each operator of the generator means."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from search.networks.architecture import Activation, Layer, Output, Unit

Operator = Literal["dense", "separable", "inverted"]


# Candidates share most of their units, so each distinct one is built once.
@lru_cache(maxsize=65_536)
def _unit(
    channels: int,
    width: int,
    operator: Operator,
    kernel: int,
    dilation: int,
    residual: bool,
    expansion: int,
    squeeze_excite: int,
    activation: Activation,
    dropout: float,
) -> Unit:
    padding = dilation * (kernel - 1) // 2
    if operator == "dense":
        layers: tuple[Layer, ...] = (
            Layer(
                channels,
                width,
                kernel,
                padding=padding,
                dilation=dilation,
                activation=activation,
                dropout=dropout,
            ),
        )
    elif operator == "separable":
        layers = (
            Layer(
                channels,
                channels,
                kernel,
                padding=padding,
                dilation=dilation,
                groups=channels,
                norm=False,
            ),
            Layer(channels, width, 1, activation=activation, dropout=dropout),
        )
    else:
        hidden = channels * expansion
        layers = (
            Layer(channels, hidden, 1, activation=activation),
            Layer(
                hidden,
                hidden,
                kernel,
                padding=padding,
                dilation=dilation,
                groups=hidden,
                activation=activation,
            ),
            Layer(hidden, width, 1, dropout=dropout),
        )
    return Unit(
        layers,
        residual=residual and channels == width,
        squeeze_excite=max(1, width // squeeze_excite) if squeeze_excite else 0,
    )


def _head(channels: int, width: int, activation: Activation, dropout: float) -> Unit:
    return _unit(channels, width, "separable", 3, 1, False, 1, 0, activation, dropout)


@lru_cache(maxsize=65_536)
def _transition(
    channels: int,
    width: int,
    halvings: int,
    operator: Operator,
    dilation: int,
    bottleneck: bool,
    activation: Activation,
) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    if bottleneck:
        layers.append(Layer(channels, max(1, channels // 2), 1, activation=activation))
        channels = max(1, channels // 2)
    for _ in range(max(1, halvings)):
        layers += _step(channels, width, 2 if halvings else 1, operator, dilation, activation)
        channels = width
    return tuple(layers)


def _step(
    channels: int,
    width: int,
    stride: int,
    operator: Operator,
    dilation: int,
    activation: Activation,
) -> tuple[Layer, ...]:
    if operator == "separable":
        return (
            Layer(
                channels,
                channels,
                3,
                stride=stride,
                padding=dilation,
                dilation=dilation,
                groups=channels,
                norm=False,
            ),
            Layer(channels, width, 1, activation=activation),
        )
    return (
        Layer(
            channels,
            width,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            activation=activation,
        ),
    )


@lru_cache(maxsize=64)
def _output(classes: int, classifier: Literal["linear", "conv"]) -> Output:
    return Output(classes, classifier)
