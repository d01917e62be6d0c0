"""Fields of layers and of random graphs: what the gradient shows."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from search.analysis.tracing.errors import TraceError
from tests import oracle
from tests.analysis.tracing.net import Net, analyzed

C = nn.Conv2d


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


# Its last layer meets only the zeros that the one before has put in between.
_ZEROS = Graph(
    [
        ("layer", 0, 0, nn.ConvTranspose2d(2, 2, 1, 2)),
        ("layer", 1, 1, C(2, 2, (1, 2), (1, 2), (0, 1), (1, 2))),
    ]
)


@given(module=graphs())
@example(module=_HOLES)
@example(module=_ZEROS)
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
    if 0 in found.pixels_seen:  # on one axis, and so of all pixels
        assert expected == ((0, 0), (0, 0))
    else:
        assert (found.receptive_field, found.pixels_seen) == expected
    assert found.macs == oracle.macs(module.float(), shape)
