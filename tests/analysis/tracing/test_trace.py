from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from constraints import Limits, check
from search.analysis.table import Analysis, analyze
from search.analysis.tracing.errors import TraceError, UnknownOperationError
from search.analysis.tracing.loading import load_factory, make
from search.analysis.tracing.trace import trace
from tests import oracle

C = nn.Conv2d


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


# ------------------------------------------------------------------- published numbers


@pytest.mark.parametrize(
    ("name", "field", "jump"),
    [
        ("alexnet", 195, 32),
        ("vgg16", 212, 32),
        ("resnet18", 435, 32),
        ("resnet34", 899, 32),
        ("resnet50", 427, 32),
        ("resnet152", 1451, 32),
        ("mobilenet_v2", 491, 32),
        ("densenet121", 2071, 32),
    ],
)
def test_torchvision_against_measured_fields(name: str, field: int, jump: int) -> None:
    found = analyzed(make(load_factory(f"torchvision.models:{name}")), (3, 224, 224))
    assert found.receptive_field == (field, field)
    assert found.jump == (jump, jump)


COUNTED = """
alexnet vgg16 resnet18 resnet50 densenet121 mobilenet_v2 mobilenet_v3_small squeezenet1_1
mnasnet1_0 shufflenet_v2_x1_0 efficientnet_b0 regnet_y_400mf convnext_tiny vit_b_16 swin_t
inception_v3
"""


@pytest.mark.parametrize("name", COUNTED.split())
def test_torchvision_against_the_counts_in_its_metadata(name: str) -> None:
    weights = next(iter(torchvision.models.get_model_weights(name)))
    side = 299 if name == "inception_v3" else 224
    found = analyzed(make(load_factory(f"torchvision.models:{name}")), (3, side, side))
    assert found.parameters == weights.meta["num_params"]
    assert found.macs / 1e9 == pytest.approx(weights.meta["_ops"], abs=6e-4)


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_attention_has_no_receptive_field_and_says_so(name: str) -> None:
    module = make(load_factory(f"torchvision.models:{name}"))
    verdict = check(trace(module, (3, 224, 224)), Limits.from_mapping({"receptive_field": 44}))
    assert verdict.to_json()["receptive_field"] == {"height": None, "width": None}
    assert "attention" in verdict.violations[0].message


def test_auxiliary_heads_do_not_run_but_count_as_parameters() -> None:
    module = make(load_factory("torchvision.models:googlenet"))
    found = analyzed(module, (3, 224, 224))
    assert found.parameters == oracle.parameters(module) == 13_004_888
    assert sum(row.parameters for row in found.layers) == 6_624_904  # published without them
    assert not any(row.name.startswith("aux") for row in found.layers)


def stages(*layers: tuple[int, int]) -> nn.Sequential:
    """Convolutions of (kernel, stride), padded."""
    return nn.Sequential(*(C(1, 1, k, s, k // 2) for k, s in layers))


def vgg_to_third_pool() -> nn.Sequential:
    three = [[C(1, 1, 3, padding=1)] * n + [nn.MaxPool2d(2)] for n in (2, 2, 3)]
    return nn.Sequential(*(layer for stage in three for layer in stage))


def slim_resnet50() -> nn.Sequential:
    """Araujo et al.: the stride stands in the last unit of each block but the last."""

    def unit(stride: int) -> nn.Module:
        return Net(
            lambda net, x: net.long(x) + net.short(x),
            long=stages((1, 1), (3, stride), (1, 1)),
            short=nn.MaxPool2d(1, stride),
        )

    units = [
        unit(2 if last and block < 3 else 1)
        for block, depth in enumerate((3, 4, 6, 3))
        for last in [False] * (depth - 1) + [True]
    ]
    return nn.Sequential(C(1, 1, 7, 2, 3), nn.MaxPool2d(3, 2, 1), *units)


def mobilenet_v1() -> nn.Sequential:
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    return stages((3, 2), *(layer for s in strides for layer in ((3, s), (1, 1))))


def alexnet_v2() -> nn.Sequential:
    first = [C(1, 1, 11, 4), nn.MaxPool2d(3, 2), C(1, 1, 5, padding=2), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*first, *[C(1, 1, 3, padding=1)] * 3, nn.MaxPool2d(3, 2))


@pytest.mark.parametrize(
    ("module", "field", "jump"),
    [
        (alexnet_v2(), 195, 32),
        (vgg_to_third_pool(), 44, 8),
        (slim_resnet50(), 483, 32),
        (mobilenet_v1(), 315, 32),
    ],
)
def test_published_fields(module: nn.Module, field: int, jump: int) -> None:
    found = analyzed(module, (1, 256, 256))
    assert (found.receptive_field, found.jump) == ((field, field), (jump, jump))


# ------------------------------------------------------------------- against gradients


def shuffle(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def to_depth(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    patches = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return patches.reshape(b, c * 4, h // 2, w // 2)


def crossed(net: Any, x: Tensor) -> Tensor:
    """[-14, -2] joined with [0, 8]: wider than either."""
    left = F.pad(net.wide(x), (8, 0, 8, 0))[:, :, : x.shape[2], : x.shape[3]]
    right = F.pad(net.slim(x), (0, 4, 0, 4))[:, :, 4:, 4:]
    joined: Tensor = left + right
    return joined


def written(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    out = torch.zeros_like(y)
    out[:, :, ::2] = y[:, :, ::2]
    out[:, :, 1::2] += net.second(y)[:, :, 1::2]
    result: Tensor = net.last(out)
    return result


def spread(net: Any, x: Tensor) -> Tensor:
    """Dilated branches, concatenated, beside a globally pooled one."""
    y = net.stem(x)
    pooled = F.interpolate(F.adaptive_avg_pool2d(y, 1).detach(), y.shape[2:], mode="bilinear")
    return torch.cat([net.near(y), net.far(y), pooled], 1)


def skipped(net: Any, x: Tensor) -> Tensor:
    first = net.first(x)
    low = net.low(F.avg_pool2d(first, 2))
    result: Tensor = net.last(torch.cat([net.up(low), first], 1))
    return result


def crossed_channels(net: Any, x: Tensor) -> Tensor:
    """Each half of the channels goes through one of two layers, not both."""
    left, right = net.first(x).chunk(2, 1)
    joined = torch.cat([net.second(left), right], 1)
    left, right = joined[:, :2], joined[:, 2:]
    return torch.cat([left, net.third(right)], 1)


GEOMETRY: dict[str, nn.Module] = {
    "asymmetric": nn.Sequential(C(3, 4, (1, 7), padding=(0, 3)), C(4, 4, (7, 2), (2, 1))),
    "even same": nn.Sequential(C(3, 4, 4, padding="same"), C(4, 4, (2, 5), padding="same")),
    "grouped": nn.Sequential(C(3, 8, 3, dilation=2), C(8, 8, 3, groups=8), C(8, 4, 1, 2)),
    "gaps": nn.Sequential(C(3, 4, 3), C(4, 4, 1, 4), C(4, 4, 3)),
    "shortcut": Net(lambda n, x: n.a(x) + n.b(x), a=C(3, 4, 3, 2, 1), b=C(3, 4, 1, 2)),
    "crossed": Net(crossed, wide=C(3, 4, 13, padding=6), slim=C(3, 4, 9, padding=4)),
    "ceil": nn.Sequential(C(3, 4, 3), nn.AvgPool2d(3, 2, 1, ceil_mode=True), C(4, 4, 3)),
    "norm pool": nn.Sequential(C(3, 4, 3), nn.LPPool2d(2, 3, 2)),
    "adaptive": nn.Sequential(C(3, 4, 3), nn.AdaptiveAvgPool2d((20, 16)), C(4, 4, 3)),
    "transposed": nn.Sequential(
        C(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 3, 2, 2, 1, dilation=3), C(4, 4, 3, 2)
    ),
    "sparse transposed": nn.Sequential(C(3, 4, 5, 2), nn.ConvTranspose2d(4, 4, 2, 3), C(4, 4, 2)),
    "nearest": nn.Sequential(C(3, 4, 3, 2, 1), nn.Upsample(scale_factor=1.5), C(4, 4, 3)),
    "bilinear": nn.Sequential(
        C(3, 4, 3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear"), C(4, 4, 3)
    ),
    "corners": nn.Sequential(
        C(3, 4, 3, 2, 1),
        nn.Upsample((70, 60), mode="bilinear", align_corners=True),
        C(4, 4, 3),
    ),
    "halved": nn.Sequential(C(3, 4, 3), nn.Upsample(scale_factor=0.5, mode="bicubic")),
    "antialiased": Net(
        lambda n, x: n.b(F.interpolate(n.a(x), (36, 54), mode="bilinear", antialias=True)),
        a=C(3, 4, 3, 1, 1),
        b=C(4, 4, 3),
    ),
    "antialiased, both ways": Net(
        lambda n, x: F.interpolate(n.a(x), (36, 144), mode="bicubic", antialias=True),
        a=C(3, 4, 3, 1, 1),
    ),
    "u-net": Net(
        skipped,
        first=C(3, 4, 3, padding=1),
        low=C(4, 4, 3, padding=1),
        up=nn.ConvTranspose2d(4, 4, 2, 2),
        last=C(8, 4, 3, padding=1),
    ),
    "spread": Net(
        spread,
        stem=C(3, 4, 3, 2, 1),
        near=C(4, 4, 1),
        far=C(4, 4, 3, padding=12, dilation=12),
    ),
    "shuffle": Net(lambda n, x: n.b(shuffle(n.a(x))), a=C(3, 8, 3), b=C(8, 8, 3, groups=2)),
    "to depth": Net(lambda n, x: n.b(to_depth(n.a(x))), a=C(3, 4, 3, 1, 1), b=C(16, 4, 3)),
    "pixel shuffle": nn.Sequential(C(3, 16, 3, 2, 1), nn.PixelShuffle(2), C(4, 4, 3)),
    "pixel unshuffle": nn.Sequential(C(3, 4, 3, 1, 1), nn.PixelUnshuffle(4), C(64, 4, 2)),
    "sliced": Net(lambda n, x: n.b(n.a(x)[:, :, ::2, 1::3]), a=C(3, 4, 3), b=C(4, 4, 3)),
    "written": Net(
        written, first=C(3, 4, 3, padding=1), second=C(4, 4, 5, padding=2), last=C(4, 4, 3)
    ),
    "flipped axes": Net(lambda n, x: n.b(n.a(x).mT), a=C(3, 4, (3, 1)), b=C(4, 4, (5, 1))),
    "circular": nn.Sequential(C(3, 4, 3, padding=1, padding_mode="circular"), C(4, 4, 3)),
    "reflect": nn.Sequential(C(3, 4, 5, padding=2, padding_mode="reflect"), C(4, 4, 3)),
    "linear in channels": Net(
        lambda n, x: n.last(n.mix(n.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        first=C(3, 4, 4, 4),
        mix=nn.Linear(4, 6),
        last=C(6, 4, 3),
    ),
    "tokens": Net(
        lambda n, x: n.last(n.mix(n.first(x).flatten(2).mT).mT.unflatten(2, (24, 24))),
        first=C(3, 4, 4, 4),
        mix=nn.Linear(4, 4),
        last=C(4, 4, 3),
    ),
    "einsum": Net(
        lambda n, x: n.last(torch.einsum("oc,bchw->bohw", n.mix.weight, n.first(x))),
        first=C(3, 4, 5, 2),
        mix=nn.Linear(4, 5, bias=False),
        last=C(5, 4, 3),
    ),
    "patches": Net(
        lambda n, x: n.mix(F.unfold(x, 5, stride=3).mT).mT.unflatten(2, (31, 31)),
        mix=nn.Linear(75, 2),
    ),
    "split and crossed": Net(
        crossed_channels,
        first=C(3, 4, 1),
        second=C(2, 2, 3, padding=1),
        third=C(2, 2, 5, padding=2),
    ),
    "part of a concatenation": Net(
        lambda n, x: torch.relu(torch.cat([n.a(x), n.b(x)], 1))[:, :5],
        a=C(3, 4, 3, padding=1),
        b=C(3, 4, (3, 7), padding=(1, 3)),
    ),
    "weight norm": nn.Sequential(
        nn.utils.parametrizations.weight_norm(C(3, 4, 3)), C(4, 4, 3, dilation=3)
    ),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_equals_the_gradient(name: str) -> None:
    module = GEOMETRY[name]
    found = analyzed(module)
    measured = oracle.support(
        oracle.linearize(module), (3, 96, 96), reach=4 if name != "adaptive" else 8
    )
    assert (found.receptive_field, found.pixels_seen) == measured


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (
            nn.Sequential(
                nn.Conv1d(3, 4, 5, 2),
                nn.AvgPool1d(3, 2),
                nn.Conv1d(4, 4, 3, dilation=2),
                nn.Upsample(scale_factor=2, mode="linear"),
            ),
            (3, 96),
        ),
        (
            nn.Sequential(nn.Conv3d(3, 2, (1, 3, 3)), nn.Conv3d(2, 2, (3, 1, 2), (2, 1, 1))),
            (3, 20, 20, 20),
        ),
    ],
)
def test_one_and_three_dimensions(module: nn.Module, shape: tuple[int, ...]) -> None:
    found = analyzed(module, shape)
    assert (found.receptive_field, found.pixels_seen) == oracle.support(
        oracle.linearize(module), shape
    )
    assert (found.parameters, found.macs) == (
        oracle.parameters(module),
        oracle.macs(module.float(), shape),
    )


Step = tuple[str, int, int, Any]  # operation, its one or two sources, what it is made of


class Graph(nn.Module):
    """Steps that read the image or earlier steps; the last one is the output."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(s[3] for s in steps if isinstance(s[3], nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for kind, first, second, what in self.steps:
            a, b = maps[first], maps[second]
            if isinstance(what, nn.Module):
                maps.append(what(a))
                continue
            # Joined maps are cut to one size, from the start or the end: misaligned.
            sizes = [min(m, n) for m, n in zip(a.shape[2:], b.shape[2:], strict=True)]
            a = a[:, :, : sizes[0], : sizes[1]]
            b = b[:, :, b.shape[2] - sizes[0] :, what : what + sizes[1]]
            a = a[..., : b.shape[3]]
            if not b.numel():
                raise RuntimeError("the cut leaves nothing")
            maps.append(
                a + b if kind == "add" else torch.cat([a, b], 1).unflatten(1, (2, 2)).sum(1)
            )
        return maps[-1]


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def layers(draw: Any) -> tuple[nn.Module, tuple[Fraction, Fraction]]:
    """A layer of two channels, and how it scales the jump on each axis."""
    kind = draw(st.sampled_from(["conv", "conv", "depthwise", "pool", "transposed", "upsample"]))
    kernel = draw(pairs)
    stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    padding = tuple(min(draw(st.integers(0, 2)), k // 2) for k in kernel)
    scale = (Fraction(stride[0]), Fraction(stride[1]))
    if kind == "pool":
        return nn.AvgPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans())), scale
    if kind == "transposed":
        module = nn.ConvTranspose2d(2, 2, kernel, stride, padding)
        return module, (1 / scale[0], 1 / scale[1])
    if kind == "upsample":
        mode = draw(st.sampled_from(["nearest", "bilinear"]))
        return nn.Upsample(scale_factor=2, mode=mode), (Fraction(1, 2), Fraction(1, 2))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    groups = 2 if kind == "depthwise" else 1
    return C(2, 2, kernel, stride, padding, dilation, groups), scale


@st.composite
def graphs(draw: Any) -> Graph:
    steps: list[Step] = []
    jumps = [(Fraction(1), Fraction(1))]
    for _ in range(draw(st.integers(2, 7))):
        source = draw(st.integers(max(0, len(jumps) - 2), len(jumps) - 1))
        mates = [i for i, jump in enumerate(jumps) if jump == jumps[source] and i != source]
        if mates and draw(st.booleans()):
            kind = draw(st.sampled_from(["add", "cat"]))
            steps.append((kind, source, draw(st.sampled_from(mates)), draw(st.integers(0, 3))))
            jumps.append(jumps[source])
        else:
            layer, scale = draw(layers())
            steps.append(("layer", source, source, layer))
            jumps.append((jumps[source][0] * scale[0], jumps[source][1] * scale[1]))
    return Graph(steps)


# Its units that see a pixel lie on no diagonal through the middle.
_HOLES = Graph(
    [
        ("layer", 0, 0, nn.ConvTranspose2d(2, 2, 1, (1, 2))),
        ("layer", 1, 1, nn.ConvTranspose2d(2, 2, 1, 2)),
    ]
)

# Of the phases with the widest span, the second sees more pixels in it.
_PHASES = Graph(
    [
        ("layer", 0, 0, nn.AvgPool2d(1, 2)),
        ("layer", 1, 1, nn.Upsample(scale_factor=2.0, mode="bilinear")),
        ("add", 2, 0, 0),
    ]
)


@given(module=graphs())
@example(module=_HOLES)
@example(module=_PHASES)
@settings(max_examples=30, deadline=None)
def test_random_graphs_equal_the_gradient(module: Graph) -> None:
    shape = (2, 56, 60)
    try:
        module.eval()(torch.zeros(1, *shape))
    except RuntimeError:  # a window wider than its map, or a cut that leaves nothing
        with pytest.raises(TraceError, match=r"does not run|without positions"):
            analyzed(module, shape)
        return
    found = analyzed(module, shape)
    span = max(n for n in found.receptive_field if n is not None)
    assume(span <= 20)
    # Units repeat with the up-sampling; a whole period must be looked at.
    periods = [Fraction(j).limit_denominator(1_000).denominator for j in found.jump if j]
    period = max(periods, default=1)
    assume(period <= 36)
    assume(all(n * j >= 40 for n, j in zip(found.feature_map, found.jump, strict=True) if j))
    expected = oracle.support(oracle.linearize(module), shape, reach=max(6, period // 2))
    assert (found.receptive_field, found.pixels_seen) == expected
    assert found.macs == oracle.macs(module.float(), shape)


# ------------------------------------------------------------------------------ counts


def test_a_layer_called_twice_counts_once_in_parameters_and_twice_in_macs() -> None:
    shared = C(3, 3, 3, padding=1, bias=False)
    found = analyzed(nn.Sequential(shared, shared), (3, 8, 8))
    assert (found.parameters, found.macs) == (81, 2 * 81 * 64)
    assert [row.parameters for row in found.layers] == [81, 0]
    assert found.receptive_field == (5, 5)


def test_a_layer_never_called_counts_in_parameters_only() -> None:
    module = Net(lambda net, x: net.used(x), used=C(3, 4, 1), unused=C(3, 4, 5))
    found = analyzed(module, (3, 8, 8))
    assert found.parameters == 16 + 304
    assert [row.name for row in found.layers] == ["used"]


def test_tied_and_frozen_parameters() -> None:
    module = nn.Sequential(C(3, 3, 1, bias=False), C(3, 3, 1, bias=False), C(3, 3, 1))
    module[1].weight = module[0].weight
    module[2].requires_grad_(False)
    assert analyzed(module, (3, 8, 8)).parameters == 9


def test_functional_layers_with_bare_parameters() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3, 3, 3))
            self.gain = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu_(F.conv2d(x, self.weight * 2, stride=2)) * self.gain

    found = analyzed(Bare(), (3, 9, 9))
    assert (found.parameters, found.macs, found.receptive_field) == (112, 108 * 16, (3, 3))
    assert [row.parameters for row in found.layers] == [112]


def test_norms_belong_to_the_layer_before() -> None:
    found = analyzed(nn.Sequential(C(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU()), (3, 8, 8))
    assert [row.parameters for row in found.layers] == [112 + 8 + 1]


# -------------------------------------------------------------------------- whole image


def gated(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    gate = torch.sigmoid(net.gate(y.mean((2, 3), keepdim=True)))
    result: Tensor = net.last(y * gate)
    return result


def test_global_pooling_and_gates_do_not_count() -> None:
    body = Net(gated, first=C(3, 4, 3), gate=C(4, 4, 1), last=C(4, 4, 3))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)]
    found = analyzed(nn.Sequential(body, *head), (3, 16, 16))
    assert found.receptive_field == (5, 5)
    assert found.feature_map == (12, 12)
    assert found.notes == ()
    assert found.layers[-1].r_out == (None, None)


def test_pooling_that_leaves_more_than_a_cell_counts_as_the_local_operation_it_is() -> None:
    module = nn.Sequential(C(3, 4, 3, 2), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(16, 10))
    assert analyzed(module, (3, 14, 14)).layers[1].r_out == (7, 7)
    assert analyzed(module[:2], (3, 14, 14)).receptive_field == (7, 7)


@pytest.mark.parametrize(
    ("pool", "counted"),
    [
        (nn.AvgPool2d(8), 59),  # 31 + 7 * 4
        (nn.MaxPool2d(8), 59),
        (nn.MaxPool2d(5, 4), 47),
        (nn.LPPool2d(2, 8), 59),
        (Net(lambda n, x: F.max_pool2d(x, x.shape[-1], return_indices=True)[0]), 59),
    ],
)
def test_pooling_that_leaves_one_cell_is_global_and_says_what_else(
    pool: nn.Module, counted: int
) -> None:
    body = [C(3, 8, 3, 2, 1), C(8, 8, 3, 2, 1), *(C(8, 8, 3, padding=1) for _ in range(3))]
    found = analyzed(nn.Sequential(*body, pool, nn.Flatten(), nn.Linear(8, 10)), (3, 32, 32))
    assert (found.receptive_field, found.jump, found.feature_map) == ((31, 31), (4, 4), (8, 8))
    assert f"would be {counted}" in " ".join(found.notes)
    assert found.structure.strays == ()


def test_pooling_as_large_as_the_map_is_local_where_padding_keeps_the_map() -> None:
    def pooled(net: Any, x: Tensor) -> Tensor:
        y = net.first(x)
        side = y.shape[-1]
        result: Tensor = net.last(F.avg_pool2d(y, side, stride=1, padding=side // 2))
        return result

    module = Net(pooled, first=C(3, 4, 3, padding=1), last=C(4, 4, 3, padding=1))
    found = analyzed(module, (3, 31, 31))
    assert found.receptive_field == (3 + 30 + 2,) * 2
    assert found.macs == oracle.macs(module, (3, 31, 31))


def test_a_size_is_a_plain_int() -> None:
    def pooled(net: Any, x: Tensor) -> Tensor:
        return F.avg_pool2d(net.first(x), x.shape[2] // 16 if type(x.shape[2]) is int else 1)

    found = analyzed(Net(pooled, first=C(3, 4, 3, 2, 1)), (3, 64, 64))
    assert found.receptive_field == (3 + 3 * 2,) * 2


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.avg_pool2d(x, x.size()[2:]),
        lambda x: F.avg_pool2d(x, kernel_size=x.shape[-1]),
        lambda x: nn.MaxPool2d((x.size(2), x.size(3)))(x),
        lambda x: x.amax((2, 3)),
        lambda x: x.flatten(2).mean(2),
        lambda x: F.adaptive_max_pool2d(x, 1),
    ],
)
def test_pooling_over_whatever_size_there_is_is_global(pool: Callable[[Tensor], Tensor]) -> None:
    module = Net(
        lambda n, x: n.last(pool(n.first(x)).flatten(1)), first=C(3, 4, 3, 2), last=nn.Linear(4, 2)
    )
    found = analyzed(module, (3, 9, 9))
    assert (found.receptive_field, found.feature_map) == ((3, 3), (4, 4))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(C(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10)), "linear layer over"),
        (
            Net(
                lambda n, x: n.mix(n.first(x).flatten(2)).unflatten(2, (6, 6)),
                first=C(3, 4, 3),
                mix=nn.Linear(36, 36),
            ),
            "linear layer over",
        ),
        (Net(lambda n, x: x.flatten(2).softmax(2).unflatten(2, (8, 8))), "softmax over"),
        (
            Net(
                lambda n, x: n.attend(*[x.flatten(2).mT] * 3)[0].mT.unflatten(2, (8, 8)),
                attend=nn.MultiheadAttention(3, 1, batch_first=True),
            ),
            "attention",
        ),
    ],
)
def test_other_ways_to_the_whole_image_have_no_field(module: nn.Module, words: str) -> None:
    found = analyzed(module, (3, 8, 8))
    assert found.receptive_field == (None, None)
    assert words in " ".join(found.notes)


def test_a_linear_layer_along_one_axis_leaves_the_other() -> None:
    module = Net(lambda n, x: n.mix(n.first(x)), first=C(3, 4, 3), mix=nn.Linear(6, 6))
    found = analyzed(module, (3, 8, 8))
    assert found.receptive_field == (3, None)


IN_PLACE: list[tuple[Callable[[Any, Tensor], Tensor], nn.Module, int]] = [
    (lambda n, x: n.mix(n.first(x).flatten(2)), nn.Conv1d(4, 5, 1), 3),
    (lambda n, x: n.mix(n.first(x).flatten(2)).unflatten(2, (6, 6)), nn.Conv1d(4, 5, 1), 3),
    (lambda n, x: n.last(n.mix(n.first(x).flatten(2)).unflatten(2, (6, 6))), nn.Conv1d(4, 4, 1), 5),
    (lambda n, x: n.mix(n.first(x).flatten(2)), nn.ConvTranspose1d(4, 5, 1), 3),
    (lambda n, x: n.mix(n.first(x).flatten(2)), nn.Conv1d(4, 4, 1, groups=2), 3),
    (lambda n, x: n.mix(n.first(x).flatten(2)), nn.MaxPool1d(1), 3),
    (
        lambda n, x: n.mix(n.first(x).unflatten(2, (2, 3)).permute(2, 0, 1, 3, 4).flatten(0, 1)),
        nn.Conv2d(4, 5, 1),
        3,
    ),
]


@pytest.mark.parametrize(("run", "mix", "field"), IN_PLACE)
def test_a_window_of_one_cell_reads_its_place_wherever_positions_stand(
    run: Callable[[Any, Tensor], Tensor], mix: nn.Module, field: int
) -> None:
    module = Net(run, first=C(3, 4, 3), mix=mix, last=C(4, 4, 3))
    assert analyzed(module, (3, 8, 8)).receptive_field == (field, field)
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    output = module(image)
    output[(0, 0, *(n // 2 for n in output.shape[2:]))].backward()
    assert image.grad is not None
    seen = image.grad.abs().sum((0, 1))
    assert [int(seen.sum(axis).count_nonzero()) for axis in (1, 0)] == [field, field]


class Tokens(nn.Module):
    """Two maps of 8 x 8, the second of a wider field, as tokens with a class token before them;
    `run` gives tokens of a map again."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.name = nn.Parameter(torch.ones(1, 1, 4))
        self.first, self.wide, self.last = (C(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        one = self.first(x)
        maps = [y.flatten(2).mT for y in (one, self.wide(one))]
        tokens = self.mix(torch.cat([self.name, *maps], 1))
        result: Tensor = self.last(self.run(self, tokens).mT.unflatten(2, (8, 8)))
        return result


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: x[:, 65:],
        lambda n, x: x.split([1, 64, 64], 1)[2],
        lambda n, x: n.mix(torch.cat([x[:, 65:], n.name], 1))[:, :64],
    ],
)
def test_tokens_of_a_map_are_one_again_without_the_class_token(
    run: Callable[[Any, Tensor], Tensor],
) -> None:
    module = Tokens(run)
    found = analyzed(module, (3, 8, 8))
    assert found.receptive_field == (7, 7) == oracle.support(oracle.linearize(module), (3, 8, 8))[0]


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: x[:, 1:65],  # the narrower map: together they see more
        lambda n, x: x[:, 1:].flip(1)[:, :64],
        lambda n, x: x[:, 64:-1],
        lambda n, x: x[:, 1:][:, ::2],
        lambda n, x: x.flip(1)[:, 65:],
    ],
)
def test_tokens_that_are_no_map_again_are_refused(run: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(UnknownOperationError, match="64 positions or channels is cut at 8"):
        trace(Tokens(run), (3, 8, 8))


def _made_from(summary: Callable[[Tensor], Tensor]) -> nn.Module:
    """A convolution by a mixture of four filters, as `summary` of the map says."""

    def run(net: Any, x: Tensor) -> Tensor:
        mixture = net.route(summary(net.first(x)))
        return F.conv2d(net.first(x), net.experts(mixture).unflatten(1, (4, 4, 3, 3))[0])

    return Net(run, first=C(3, 4, 3), route=nn.Linear(4, 4), experts=nn.Linear(4, 144, bias=False))


def test_weights_made_from_the_image_are_a_gate() -> None:
    """Conditional convolutions (Yang et al., arXiv:1904.04971)."""
    found = analyzed(_made_from(lambda x: x.mean((2, 3))), (3, 16, 16))
    assert found.receptive_field == (5, 5)
    assert found.parameters == 112 + 20 + 576
    assert found.macs == 14 * 14 * 108 * 2 + 12 * 12 * 144 + 16 + 576
    whole = analyzed(_made_from(lambda x: (x.flatten(2) @ torch.ones(196, 1))[..., 0]), (3, 16, 16))
    assert whole.receptive_field == (None, None)


# ----------------------------------------------------------------------------- refusals


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        grid = torch.zeros(1, 4, 4, 2, device=x.device)
        return F.grid_sample(x, grid, align_corners=False)


@pytest.mark.parametrize(
    ("module", "operation"),
    [
        (Unknown(), "grid_sampler_2d"),
        (Net(lambda n, x: x.cumsum(2)), "cumsum"),
        (Net(lambda n, x: x.sort(3).values), "sort"),
        (Net(lambda n, x: x[:, :, 8:]), "slice"),
        (Net(lambda n, x: x.as_strided(x.shape, (192, 64, 1, 8))), "as_strided"),
        (Net(lambda n, x: F.conv2d(x, x[:, :, :3, :3])), "convolution"),
        (Net(lambda n, x: x.flatten(2)[:, :, torch.arange(5)]), "index"),
    ],
)
def test_unknown_operations_are_refused_by_name(module: nn.Module, operation: str) -> None:
    module = nn.Sequential(C(3, 3, 1), nn.Sequential(module), C(3, 3, 1))
    with pytest.raises(UnknownOperationError, match="cannot be analyzed") as caught:
        trace(module, (3, 8, 8))
    assert f"module '1.0': operation '{operation}'" in str(caught.value)


@pytest.mark.parametrize(
    "part",
    [
        lambda n, x: n.first(x.unflatten(2, (4, 2)).permute(0, 3, 1, 2, 4)[0]),  # by turns
        lambda n, x: F.adaptive_avg_pool2d(x.unflatten(2, (2, 4)).transpose(1, 2)[0], 2),
        lambda n, x: F.interpolate(x.unflatten(2, (2, 4)).transpose(1, 2)[0], scale_factor=2),
    ],
)
def test_parts_in_the_batch_are_refused(part: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(UnknownOperationError, match="batch dimension, in parts"):
        trace(Net(part, first=C(3, 3, 3, padding=1)), (3, 8, 8))


def test_what_depends_on_data_is_refused_in_one_line() -> None:
    module = Net(lambda n, x: x if x.sum() > 0 else -x)
    with pytest.raises(TraceError, match="without data") as caught:
        trace(module, (3, 8, 8))
    assert "\n" not in str(caught.value)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise AssertionError("there is no backward to prepare")


def test_custom_functions_run_beside_writes_through_views() -> None:
    plain = Net(lambda n, x: n.b(Double.apply(n.a(x).relu_())), a=C(3, 4, 3), b=C(4, 4, 3))
    assert analyzed(plain, (3, 8, 8)).receptive_field == (5, 5)

    def writing(net: Any, x: Tensor) -> Tensor:
        y = Sign.apply(Double.apply(net.first(x)))
        left, right = y.chunk(2, 1)
        right.relu_()
        y[:, :, 1:] += 1
        result: Tensor = net.last(torch.cat([left, right], 1))
        return result

    module = Net(writing, first=C(3, 4, 3), last=C(4, 4, 3))
    assert analyzed(module, (3, 8, 8)).receptive_field == (5, 5)
    y = torch.ones(1, requires_grad=True)
    Double.apply(y).backward()  # as ever, afterwards
    assert y.grad == 2


def test_lazy_parameters_are_refused() -> None:
    with pytest.raises(TraceError, match="lazy"):
        trace(nn.LazyConv2d(4, 3), (3, 8, 8))


def test_a_roll_is_a_shift_whose_far_end_is_a_border() -> None:
    module = Net(lambda n, x: n.first(x) + n.first(x).roll(3, 2), first=C(3, 4, 3, padding=1))
    assert analyzed(module, (3, 16, 16)).receptive_field == (6, 3)


def test_an_output_without_the_image_is_refused() -> None:
    with pytest.raises(TraceError, match="does not depend"):
        trace(Net(lambda n, x: torch.ones(3)), (3, 8, 8))


def test_a_module_is_left_as_it_was() -> None:
    module = nn.Sequential(C(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trace(module, (3, 8, 8))
    assert [part.training for part in module.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module[0].weight.device.type == "cpu"


def test_of_several_outputs_the_deepest_is_analyzed() -> None:
    module = Net(
        lambda n, x: {"aux": n.a(x), "out": n.c(n.b(n.a(x)))},
        a=C(3, 3, 3),
        b=C(3, 3, 3),
        c=C(3, 3, 3),
    )
    assert analyzed(module, (3, 16, 16)).receptive_field == (7, 7)


# ---------------------------------------------------------------------------- factories


def test_a_factory_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("from torch import nn\nlayer = nn.Conv2d(3, 4, 3)\n")
    file = tmp_path / "mine.py"
    file.write_text("import parts\nimport torch\ndef net():\n    return parts.layer\n")
    found = analyzed(make(load_factory(f"{file}:net")), (3, 8, 8))
    assert found.receptive_field == (3, 3)


def test_a_constructor_that_reads_values_is_made_with_them(tmp_path: Path) -> None:
    file = tmp_path / "drop.py"
    file.write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    rates = [rate.item() for rate in torch.linspace(0, 0.5, 2)]\n"
        "    return nn.Sequential(*(nn.Dropout(rate) for rate in rates), nn.Conv2d(3, 4, 3))\n"
    )
    assert analyzed(make(load_factory(f"{file}:net")), (3, 8, 8)).parameters == 112


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("torchvision.models", "must be file.py:factory"),
        ("no_such_package.x:net", "No module named"),
        ("torchvision.models:no_such_net", "has no 'no_such_net'"),
        ("nowhere.py:net", "there is no file"),
        ("math:pi", "must be a callable"),
    ],
)
def test_bad_targets(target: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        load_factory(target)


def test_a_factory_that_fails_or_makes_something_else(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def net():\n    raise KeyError('size')\ndef number():\n    return 1\n")
    with pytest.raises(TraceError, match="KeyError"):
        make(load_factory(f"{file}:net"))
    with pytest.raises(TraceError, match="made int"):
        make(load_factory(f"{file}:number"))
    file.write_text("import no_such_thing\n")
    with pytest.raises(TraceError, match=r"importing .* failed"):
        load_factory(f"{file}:net")


def test_a_script_that_exits_is_no_verdict(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text("import sys\ndef net():\n    sys.exit(0)\n")
    with pytest.raises(TraceError, match="SystemExit: 0"):
        make(load_factory(f"{file}:net"))
    file.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(TraceError, match="SystemExit: 0"):
        load_factory(f"{file}:net")


def test_rows_of_a_module_hold_a_pair_per_spatial_value() -> None:
    verdict = check(trace(C(3, 4, (3, 5)), (3, 8, 9)), Limits.from_mapping({}))
    (row,) = verdict.to_json()["layers"]
    assert (row["kernel"], row["n_in"], row["n_out"]) == ([3, 5], [8, 9], [6, 5])
    assert math.prod(row["n_out"]) * 3 * 15 * 4 == row["macs"]
