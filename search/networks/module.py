"""An `Architecture` as a torch module: what is checked is what is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.networks.architecture import Architecture, Layer, Output, Unit
from search.networks.grouped import QuickGroups

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}


class SqueezeExcite(nn.Module):
    """Scales channels by a gate that reads their global averages (Hu et al., 2018).

    Maps (N, C, H, W) to (N, C, H, W).
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.expand(squeezed))


class Residual(nn.Module):
    """Adds its input to what `body` makes of it; shapes stay."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def build(architecture: Architecture) -> nn.Sequential:
    """The module that `architecture` describes, with torch's default initialization.

    It maps float images (N, C, H, W) to logits (N, classes).  Children are named C1 to C4
    and O.
    """
    network = nn.Sequential()
    for block in architecture.blocks:
        body = nn.Sequential(*(_unit(unit) for unit in block.units))
        for layer in block.transition:
            body.extend(_layer(layer))
        network.add_module(block.name, body)
    network.add_module("O", _output(architecture.output, architecture.features))
    return network


def _unit(unit: Unit) -> nn.Module:
    body = nn.Sequential(*(module for layer in unit.layers for module in _layer(layer)))
    if unit.squeeze_excite:
        body.append(SqueezeExcite(unit.out_channels, unit.squeeze_excite))
    return Residual(body) if unit.residual else body


def _layer(layer: Layer) -> list[nn.Module]:
    convolution = QuickGroups if layer.groups > 1 else nn.Conv2d
    modules: list[nn.Module] = [
        convolution(
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias=layer.bias,
        )
    ]
    if layer.norm:
        modules.append(nn.BatchNorm2d(layer.out_channels))
    if layer.activation is not None:
        modules.append(_ACTIVATIONS[layer.activation]())
    if layer.dropout:
        modules.append(nn.Dropout(layer.dropout))
    return modules


def _output(output: Output, features: int) -> nn.Sequential:
    pool = (
        nn.AvgPool2d(output.pool_kernel, output.pool_stride)
        if output.pool_kernel
        else nn.AdaptiveAvgPool2d(1)
    )
    dropout = [nn.Dropout(output.dropout)] if output.dropout else []
    if output.classifier == "conv":
        classifier = [nn.Conv2d(features, output.classes, 1, bias=output.bias), nn.Flatten()]
    else:
        classifier = [nn.Flatten(), nn.Linear(features, output.classes, bias=output.bias)]
    return nn.Sequential(pool, *dropout, *classifier)
