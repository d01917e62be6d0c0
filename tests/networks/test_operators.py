"""The table of operators: each entry is known by what it makes, and a new one shows everywhere."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual

from search.networks.architecture import Layer
from search.networks.operators import OPERATORS, Form, operator_of
from tests.pages import ROOT

# A fused bottleneck (Gupta and Tan, 2020), added as the table's docstring says: one function,
# one entry.  In a process of its own, since study files know what the table holds at the start.
ADDED = """
from search.networks.architecture import Layer
from search.networks.operators import OPERATORS, Operator

def fused(form):
    reach = form.dilation * (form.kernel - 1) // 2
    return (
        Layer(form.channels, form.hidden, form.kernel, form.stride, reach, form.dilation,
              activation=form.activation),
        Layer(form.hidden, form.width, 1, dropout=form.dropout),
    )

OPERATORS["fused"] = Operator(
    fused, "fused", "FusedBottleneck", "Widens over space, narrows.",
    ("inputs", "hidden", "outputs"),
)
"""
USED = """
import random
import torch
from constraints import check
from search.config.files import parse
from search.networks.glance import glance
from search.networks.module import build
from search.networks.source import generate, state_key
from search.proposals.proposer import propose
from search.proposals.choices import ANY_SPACE, choices_of

block = {"operator": ["fused"], "expansion": [2, 3], "width": 8, "depth": [1, 2], "residual": True}
config = parse(
    {"study": {"name": "s"}, "space": {"block": block}, "limits": {"receptive_field": 30,
     "dilated": 0, "depthwise_separable": 0}}, "here")
proposal = next(p for p in propose(config, (3, 32, 32), 10, random.Random(0)) if p.accepted)
network = proposal.architecture
# A 3x3 and a 1x1 layer a unit, and three transitions.
units = sum(len(block.units) for block in network.blocks)
assert check(network, config.rules).analysis.structure.depth == 2 * units + 3
assert glance(network).startswith(("C1 fused3·8", "C1 2×fused3·8")), glance(network)
choices = choices_of(network, config.space)
assert choices == {**choices, **{k: v for k, v in proposal.choices.items() if "depth" in k}}
assert "fused" in ANY_SPACE.C1.operator

text = generate(network, title="A network.", facts=[], classes="abcdefghij", mean=(0.5,) * 3,
                std=(0.5,) * 3)
assert text.count("class FusedBottleneck(nn.Sequential):") == 1
assert "Widens over space, narrows." in text
names = {"__name__": "model"}
exec(compile(text, "model.py", "exec"), names)
built, written = build(network), names["Network"]().eval()
for part in built.modules():  # or each image gets the same answer
    part.momentum = 1.0
built.train()(torch.randn(8, 3, 32, 32))
built.eval()
written.load_state_dict({state_key(network, k): v for k, v in built.state_dict().items()})
images = torch.randn(2, 3, 32, 32)
assert torch.equal(built(images), written(images))
assert not torch.allclose(built(images), built(images.flip(3)))
"""


def test_a_new_operator_is_one_entry() -> None:
    command = [sys.executable, "-c", ADDED + USED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", OPERATORS)
@given(
    channels=st.integers(2, 9),
    width=st.integers(1, 9),
    expansion=st.integers(1, 4),
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 3),
)
def test_an_operator_is_known_by_its_layers(
    name: str, channels: int, width: int, expansion: int, kernel: int, stride: int, dilation: int
) -> None:
    form = Form(channels, width, channels * expansion, kernel, stride, dilation, "relu", 0.1)
    layers = OPERATORS[name].layers(form)
    found = operator_of(layers)
    assert found is not None
    assert found[0] == name
    assert OPERATORS[name].layers(found[1]._replace(activation="relu", dropout=0.1)) == layers
    assert len(OPERATORS[name].channels) == len(layers) + 1


def torch_s(layer: Layer) -> tuple[object, ...]:
    after = (layer.norm, layer.activation)
    return (layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.groups, *after)


@pytest.mark.parametrize(("expansion", "stride"), [(2, 1), (6, 1), (6, 2)])
def test_an_inverted_bottleneck_is_torchvision_s(expansion: int, stride: int) -> None:
    form = Form(8, 12, 8 * expansion, 3, stride, 1, "relu6")
    *parts, last, norm = InvertedResidual(8, 12, stride, expansion).conv
    pairs = [(part[0], "relu6") for part in parts] + [(last, None)]
    assert isinstance(norm, nn.BatchNorm2d)
    assert [torch_s(layer) for layer in OPERATORS["inverted"].layers(form)] == [
        (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.groups,
         True, after)
        for conv, after in pairs
    ]  # fmt: skip


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_separable_convolution_costs_what_was_published(kernel: int) -> None:
    """1/N + 1/k² of a dense one's multiply-adds (Howard et al., 2017, section 3.1); depthwise,
    then pointwise, and nothing in between (Chollet, 2017)."""
    form = Form(16, 24, 16, kernel, 1, 1, "relu")
    (dense,), (depthwise, pointwise) = (
        OPERATORS[name].layers(form) for name in ("dense", "separable")
    )
    costs = [
        layer.kernel**2 * layer.in_channels * layer.out_channels // layer.groups
        for layer in (dense, depthwise, pointwise)
    ]
    assert Fraction(costs[1] + costs[2], costs[0]) == Fraction(1, 24) + Fraction(1, kernel**2)
    assert (depthwise.groups, depthwise.kernel, pointwise.kernel) == (16, kernel, 1)
    assert (depthwise.norm, depthwise.activation, pointwise.activation) == (False, None, "relu")


def test_other_layers_are_no_operator_s() -> None:
    lone = Layer(8, 8, 3, padding=1, groups=8)
    assert operator_of((lone,)) is None
    assert operator_of((lone, Layer(8, 8, 1, padding=1))) is None
    assert operator_of((Layer(8, 8, 3), Layer(8, 8, 3))) is None
