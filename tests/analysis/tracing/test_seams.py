"""Maps put together from pieces: inside each the field is that of the infinite plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.analysis.table import analyze
from search.analysis.tracing.errors import UnknownOperationError
from search.analysis.tracing.trace import trace
from tests import oracle
from tests.analysis.tracing.net import Net


class Twelve(nn.Module):
    """Twelve 5x5 layers, before each of which `again` runs: 1 + 12 * 4 = 49, whatever the image."""

    def __init__(self, again: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.again = again
        self.layers = nn.ModuleList(nn.Conv2d(2, 2, 5, padding=2) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(self.again(x)) + x
        return x


class Again(nn.Module):
    """`again` as a module."""

    def __init__(self, again: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = again


def halves(x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2, 2), 2)


def written_border(x: Tensor) -> Tensor:
    border = x.new_zeros(*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2)
    border[:, :, 1:-1, 1:-1] = x
    return border[:, :, 1:-1, 1:-1]


def joined_border(x: Tensor) -> Tensor:
    row = torch.zeros_like(x[:, :, :1])
    return torch.cat([row, x, row], 2)[:, :, 1:-1]


def circular(x: Tensor) -> Tensor:
    x = torch.cat([x[..., -2:], x, x[..., :2]], 3)
    x = torch.cat([x[:, :, -2:], x, x[:, :, :2]], 2)
    return x[:, :, 2:-2, 2:-2]


def mirrored(x: Tensor) -> Tensor:
    x = torch.cat([x[..., 1:3].flip(3), x, x[..., -3:-1].flip(3)], 3)
    return x[..., 2:-2]


def turned_twice(x: Tensor) -> Tensor:
    return x.flip(2, 3).flip(3).flip(2)


def swapped_twice(x: Tensor) -> Tensor:
    for _ in range(2):
        first, second = x.chunk(2, 3)
        x = torch.cat([second, first], 3)
    return x


def rolled_twice(x: Tensor) -> Tensor:
    return x.roll(x.shape[2] // 2, 2).roll(x.shape[2] // 2, 2)


def rolled_back(x: Tensor) -> Tensor:
    return x.roll((-3, 5), (2, 3)).roll((3, -5), (2, 3))


def in_thirds(x: Tensor) -> Tensor:
    return torch.cat([x[..., :7], x[..., 7:20], x[..., 20:]], 3)


def interleaved(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for start in range(3):
        out[:, :, start::3] = x[:, :, start::3]
    return out


def stacked(x: Tensor) -> Tensor:
    x = torch.stack([x[..., ::2], x[..., 1::2]], 4).flatten(3)
    x = torch.stack([x[:, :, start::4] for start in range(4)], 3).flatten(2, 3)
    x = torch.stack(x.chunk(2, 2), 2).relu().flatten(2, 3)
    return torch.stack([x[..., ::2], x[..., 1::2]], 1).permute(0, 2, 3, 4, 1).flatten(3)


def part_written(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 4:20:2] = x[:, :, 4:20:2] * 2
    return x


def erased(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 8:12, 3:9] = 0
    return x


def edges_written(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 0] = x[:, :, 3]
    x[..., -1:] = x[..., 5:6]
    return x


def turned(x: Tensor) -> Tensor:
    for turns in (1, 2, 3, -6):
        x = torch.rot90(x, turns, (2, 3))
    return x


def masked(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] = 0
    return x


REARRANGED = (
    *(halves, written_border, joined_border, circular, mirrored, turned_twice, swapped_twice),
    *(rolled_twice, rolled_back, in_thirds, interleaved, part_written, erased),
    *(turned, masked, stacked),
)


ROWS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: torch.cat([x[:, :, i : i + 1] for i in range(x.shape[2])], 2),
    lambda x: torch.stack(x.unbind(2), 2),
    lambda x: torch.stack([row.relu() for row in x.unbind(3)], 3),
    lambda x: torch.stack([x.select(2, i) for i in reversed(range(x.shape[2]))], 2),
    lambda x: torch.stack(x.unbind(2), 1).transpose(1, 2),
    lambda x: torch.stack(x.unbind(0), 0),
    lambda x: torch.stack(x.unbind(1), 1),
)


@pytest.mark.parametrize("side", [16, 64])
@pytest.mark.parametrize("again", ROWS)
def test_maps_put_together_row_by_row_are_whole(
    again: Callable[[Tensor], Tensor], side: int
) -> None:
    """Two 5x5 layers with the rows in between: 9, not what rows taken for channels would see."""
    network = nn.Sequential(
        nn.Conv2d(2, 2, 5, padding=2), Again(again), nn.Conv2d(2, 2, 5, padding=2)
    )
    assert analyze(trace(network, (2, side, side))).receptive_field == (9, 9)


def test_tokens_taken_one_by_one_are_no_rows() -> None:
    def again(x: Tensor) -> Tensor:
        return torch.stack(x.flatten(2).unbind(2), 2).reshape(x.shape)

    network = nn.Sequential(nn.Conv2d(2, 2, 5, padding=2), Again(again))
    assert analyze(trace(network, (2, 16, 16))).receptive_field == (5, 5)


@pytest.mark.parametrize("side", [16, 32, 96])
@pytest.mark.parametrize("again", REARRANGED)
def test_a_rearrangement_that_comes_back_adds_nothing(
    again: Callable[[Tensor], Tensor], side: int
) -> None:
    if again in (in_thirds, part_written) and side == 16:
        side = 40
    found = analyze(trace(Twelve(again), (2, side, side)))
    assert (found.receptive_field, found.jump) == ((49, 49), (1, 1))


def conv(kernel: int, stride: int = 1) -> nn.Module:
    return nn.Conv2d(2, 2, kernel, stride, kernel // 2)


def spread(x: Tensor) -> Tensor:
    out = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    out[:, :, ::2, 1::2] = x
    return out


INSIDE: dict[str, nn.Module] = {
    "mirrored path": Net(lambda n, x: n.b(n.a(x).flip(3)).flip(3) + x, a=conv(3), b=conv(5)),
    "one half through another layer": Net(
        lambda n, x: n.b(torch.cat([n.a(x[..., :70]), x[..., 70:]], 3)), a=conv(7), b=conv(3)
    ),
    "circular, strided": Net(
        lambda n, x: n.b(n.a(torch.cat([x[..., -1:], x, x[..., :1]], 3))), a=conv(3, 2), b=conv(3)
    ),
    "transposed by hand": Net(lambda n, x: n.b(spread(n.a(x))), a=conv(3, 2), b=conv(5)),
    "two maps by turns": Net(
        lambda n, x: n.b(torch.stack([n.a(x), x[..., 1::2]], 4).flatten(3)),
        a=nn.Conv2d(2, 2, 5, (1, 2), 2),
        b=conv(3),
    ),
    "zeros by turns": Net(
        lambda n, x: n.b(torch.stack([n.a(x), torch.zeros_like(n.a(x))], 3).flatten(2, 3)),
        a=conv(3, 2),
        b=conv(5),
    ),
    "edges written": Net(lambda n, x: n.b(edges_written(n.a(x))), a=conv(3), b=conv(5)),
    "resized to a size": Net(
        lambda n, x: n.b(F.interpolate(n.a(x), (70, 61), mode="bilinear")), a=conv(3, 2), b=conv(5)
    ),
    "resized to the skip": Net(
        lambda n, x: n.b(x + F.interpolate(n.a(x), x.shape[2:])), a=conv(3, 2), b=conv(5)
    ),
    "resized by 1.7": nn.Sequential(conv(3, 4), nn.Upsample(scale_factor=1.7), conv(5), conv(5)),
}


@pytest.mark.parametrize("name", INSIDE)
def test_inside_a_piece_the_field_is_the_gradient_s(name: str) -> None:
    module, shape = INSIDE[name], (2, 96, 96)
    found = analyze(trace(module, shape))
    assert found.receptive_field == oracle.support(oracle.linearize(module), shape, reach=17)[0]


def in_bands(n: Any, x: Tensor) -> Tensor:
    """Six layers on each of four bands of six rows."""
    for _ in range(6):
        x = torch.cat([n.a(band) for band in x.chunk(4, 2)], 2)
    return x


def one_band(n: Any, x: Tensor) -> Tensor:
    for _ in range(6):
        x = torch.cat([n.a(x[:, :, :6]), x[:, :, 6:]], 2)
    return x


def framed(n: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, :1] = n.a(n.a(x))[:, :, :1]
    return y


@pytest.mark.parametrize(
    ("run", "seen", "field"),
    [
        (in_bands, 6, 25),
        (one_band, 6, 25),
        (framed, 5, 9),
        (lambda n, x: torch.cat([n.a(row) for row in x.split(1, 2)], 2), 1, 5),
    ],
)
def test_a_field_that_no_unit_has_is_refused(
    run: Callable[[Any, Tensor], Tensor], seen: int, field: int
) -> None:
    """Layers on pieces smaller than what they read would count as if there were more beyond."""
    module, shape = Net(run, a=conv(5)), (2, 24, 5)
    with pytest.raises(UnknownOperationError, match=f"more than {seen} of {field} pixels"):
        trace(module, shape)
    assert oracle.support(oracle.linearize(module), shape, reach=12)[0][0] == seen
