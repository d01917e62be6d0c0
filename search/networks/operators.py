"""The operators of the generator, one entry each, and what units and transitions they make.

A new one is a function from a `Form` to layers, and its entry in `OPERATORS`: study files,
the checker, the network, its source and its glance follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from search.networks.architecture import Activation, Layer, Output, Unit


class Form(NamedTuple):
    """What an operator makes layers of: `channels` in, `width` out; `hidden` between them where
    it widens; one window over space."""

    channels: int
    width: int
    hidden: int
    kernel: int
    stride: int
    dilation: int
    activation: Activation | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class Operator:
    """How an operator makes layers, and how it reads.

    `glance` is its word in one line, `name` and `docstring` are those of its class in
    `model.py`, and `channels` the words there for what each layer reads, then for the last
    one's outputs.
    """

    layers: Callable[[Form], tuple[Layer, ...]]
    glance: str
    name: str
    docstring: str
    channels: tuple[str, ...]


def _filter(form: Form, channels: int, width: int, groups: int, **after: Any) -> Layer:
    """The layer that looks at more than one pixel; alone it would keep the map's size."""
    padding = form.dilation * (form.kernel - 1) // 2
    return Layer(channels, width, form.kernel, form.stride, padding, form.dilation, groups, **after)


def _dense(form: Form) -> tuple[Layer, ...]:
    after = {"activation": form.activation, "dropout": form.dropout}
    return (_filter(form, form.channels, form.width, 1, **after),)


def _separable(form: Form) -> tuple[Layer, ...]:
    return (
        _filter(form, form.channels, form.channels, form.channels, norm=False),
        Layer(form.channels, form.width, 1, activation=form.activation, dropout=form.dropout),
    )


def _inverted(form: Form) -> tuple[Layer, ...]:
    return (
        Layer(form.channels, form.hidden, 1, activation=form.activation),
        _filter(form, form.hidden, form.hidden, form.hidden, activation=form.activation),
        Layer(form.hidden, form.width, 1, dropout=form.dropout),
    )


OPERATORS = {
    "dense": Operator(
        _dense,
        "conv",
        "Conv",
        "A convolution over space and channels.",
        ("inputs", "outputs"),
    ),
    "separable": Operator(
        _separable,
        "sep",
        "Separable",
        "A depthwise convolution, then a pointwise one (Chollet, 2017).",
        ("inputs", "inputs", "outputs"),
    ),
    "inverted": Operator(
        _inverted,
        "inv",
        "InvertedBottleneck",
        "Widens, filters each channel, narrows (Sandler et al., 2018).",
        ("inputs", "hidden", "hidden", "outputs"),
    ),
}


def operator_of(layers: Sequence[Layer]) -> tuple[str, Form] | None:
    """The operator that makes layers of these windows and channels, and of what it makes them;
    None where none does.  What follows a convolution does not count."""
    channels, spatial = layers[0].in_channels, spatial_of(layers)
    if any(layer.padding for layer in layers if layer is not spatial):
        return None
    window = (spatial.kernel, spatial.stride, spatial.dilation)
    for name, operator in OPERATORS.items():
        for hidden in (channels, *(layer.out_channels for layer in layers)):
            form = Form(channels, layers[-1].out_channels, hidden, *window)
            if [*map(_window, operator.layers(form))] == [*map(_window, layers)]:
                return name, form
    return None


def spatial_of(layers: Sequence[Layer]) -> Layer:
    """The layer with the largest kernel, the first of several."""
    return max(layers, key=lambda layer: layer.kernel)


def _window(layer: Layer) -> tuple[int, ...]:
    channels = layer.in_channels, layer.out_channels, layer.groups
    return *channels, layer.kernel, layer.stride, layer.dilation


# Candidates share most of their units, so each distinct one is built once.
@lru_cache(maxsize=65_536)
def unit(
    channels: int,
    width: int,
    operator: str,
    kernel: int,
    dilation: int,
    residual: bool,
    expansion: int,
    squeeze_excite: int,
    activation: Activation,
    dropout: float,
) -> Unit:
    """A unit of a block, `channels` wide before it and `width` behind."""
    form = Form(channels, width, channels * expansion, kernel, 1, dilation, activation, dropout)
    return Unit(
        OPERATORS[operator].layers(form),
        residual=residual and channels == width,
        squeeze_excite=max(1, width // squeeze_excite) if squeeze_excite else 0,
    )


def head(channels: int, width: int, activation: Activation, dropout: float) -> Unit:
    """The unit behind C4 that widens its features."""
    return unit(channels, width, "separable", 3, 1, False, 1, 0, activation, dropout)


@lru_cache(maxsize=65_536)
def transition(
    channels: int,
    width: int,
    halvings: int,
    operator: str,
    dilation: int,
    bottleneck: bool,
    activation: Activation,
) -> tuple[Layer, ...]:
    """The layers that end a block: one that halves the map for each of `halvings`."""
    layers: list[Layer] = []
    if bottleneck:
        layers.append(Layer(channels, max(1, channels // 2), 1, activation=activation))
        channels = max(1, channels // 2)
    stride = 2 if halvings else 1
    for _ in range(max(1, halvings)):
        form = Form(channels, width, channels, 3, stride, dilation, activation)
        layers += OPERATORS[operator].layers(form)
        channels = width
    return tuple(layers)


@lru_cache(maxsize=64)
def output(classes: int, classifier: Literal["linear", "conv"]) -> Output:
    """The output block O."""
    return Output(classes, classifier)
