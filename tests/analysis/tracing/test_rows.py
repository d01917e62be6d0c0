"""Rows and stacked maps that become positions: the gradient's field, or a refusal that says why."""

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

SIDE = 12
SHAPE = (2, SIDE, SIDE)
EVENS_THEN_ODDS = [*range(0, SIDE, 2), *range(1, SIDE, 2)]


class Between(nn.Module):
    """`run` between two 3x3 layers; `n.row` is a layer of its own for what has one axis less."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.last = nn.Conv2d(2, 2, 3, padding=1)
        self.row = nn.Conv1d(2, 2, 3, padding=1)
        self.other = nn.Conv1d(2, 2, 5, padding=2)
        self.flat = nn.Conv2d(2, 2, (1, 3), padding=(0, 1))
        self.mix = nn.Linear(2, 2)
        self.map = nn.Conv2d(2, 2, 3, padding=1)
        self.wide = nn.Conv2d(8, 8, 1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, self.first(x)))


def assigned(n: Any, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for i in range(SIDE):
        out[:, :, i] = n.row(x[:, :, i])
    return out


def sorted_back(n: Any, x: Tensor) -> Tensor:
    rows = torch.stack([n.row(x[:, :, i]) for i in EVENS_THEN_ODDS], 2)
    return torch.stack([rows[:, :, i // 2 + SIDE // 2 * (i % 2)] for i in range(SIDE)], 2)


def pixels(n: Any, x: Tensor) -> Tensor:
    rows = x[..., :8].unbind(2)
    return torch.stack([torch.stack([n.mix(p) for p in row.unbind(2)], 2) for row in rows], 2)


def quarters(x: Tensor) -> list[Tensor]:
    return [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]


def corners(x: Tensor) -> list[Tensor]:
    return [half for part in x.chunk(2, 2) for half in part.chunk(2, 3)]


def squared(x: Tensor) -> Tensor:
    """Four stacked maps, a quarter each, as two by two."""
    return x.reshape(1, 2, 2, 2, 6, 6).permute(0, 1, 2, 4, 3, 5).reshape(1, 2, SIDE, SIDE)


def as_a_batch(layer: Any, x: Tensor) -> Tensor:
    batch: Tensor = layer(x[0].transpose(0, 1))
    return batch.transpose(0, 1)[None]


def in_windows(layer: Callable[[Tensor], Tensor], x: Tensor, height: int, width: int) -> Tensor:
    """Windows of that size in the batch, each with borders of its own, and back on the map."""
    n, c, rows, columns = x.shape
    cut = x.reshape(n, c, rows // height, height, columns // width, width)
    done = layer(cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, height, width))
    back = done.reshape(n, rows // height, columns // width, *done.shape[1:])
    return back.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


RIGHT: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "rows": lambda n, x: torch.stack([n.row(r) for r in x.unbind(2)], 2),
    "columns": lambda n, x: torch.stack([n.row(r) for r in x.unbind(3)], 3),
    "rows, by cat": lambda n, x: torch.cat([n.row(r).unsqueeze(2) for r in x.unbind(2)], 2),
    "rows kept as maps": lambda n, x: torch.cat([n.flat(r) for r in x.split(1, 2)], 2),
    "rows squeezed": lambda n, x: torch.stack([n.row(r.squeeze(2)) for r in x.split(1, 2)], 2),
    "rows flattened": lambda n, x: torch.stack([n.row(r.flatten(2)) for r in x.split(1, 2)], 2),
    "rows in one line": lambda n, x: torch.cat([n.row(r) for r in x.unbind(2)], 2).view(x.shape),
    "rows in the channels": lambda n, x: (
        torch.cat([n.row(r) for r in x.unbind(2)], 1).view(1, SIDE, 2, SIDE).transpose(1, 2)
    ),
    "rows first": lambda n, x: torch.stack([n.row(r) for r in x.unbind(2)]).permute(1, 2, 0, 3),
    "rows last": lambda n, x: torch.stack([n.row(r) for r in x.unbind(2)], -1).mT,
    "channels last": lambda n, x: torch.stack(
        [n.mix(r) for r in x.permute(0, 2, 3, 1).unbind(1)], 1
    ).permute(0, 3, 1, 2),
    "two rows each": lambda n, x: torch.stack(
        [n.row(x[:, :, i] + x[:, :, max(i - 1, 0)]) for i in range(SIDE)], 2
    ),
    "upside down": lambda n, x: torch.stack([n.row(r) for r in reversed(x.unbind(2))], 2),
    "every second": lambda n, x: torch.stack([n.row(r) for r in x.unbind(2)[::2]], 2),
    "every second, untouched": lambda n, x: torch.stack(x.unbind(2)[::2], 2),
    "every row twice": lambda n, x: torch.stack([x[:, :, i // 2] for i in range(2 * SIDE)], 2),
    "two layers by turns": lambda n, x: torch.stack(
        [(n.other if i % 2 else n.row)(r) for i, r in enumerate(x.unbind(2))], 2
    ),
    "sorted and back": sorted_back,
    "written row by row": assigned,
    "pixel by pixel": pixels,
    "shuffled and back": lambda n, x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
    "mixed before the shuffle": lambda n, x: F.pixel_shuffle(n.wide(torch.cat(quarters(x), 1)), 2),
    "rows as a batch": lambda n, x: as_a_batch(n.row, x),
    "columns as a batch": lambda n, x: as_a_batch(n.row, x.mT).mT,
    "rows as a batch, every second": lambda n, x: as_a_batch(n.row, x[:, :, ::2]),
    "rows as a batch, pooled": lambda n, x: as_a_batch(nn.AvgPool1d(3, 2, 1), x),
    "windows": lambda n, x: in_windows(n.map, x, 4, 4),
    "windows, seen whole": lambda n, x: in_windows(lambda w: n.map(n.map(n.map(w))), x, 3, 3),
    "windows, without padding": lambda n, x: in_windows(
        lambda w: F.conv2d(w, n.map.weight, padding=(0, 1)), x, 4, 4
    ),
    "windows, every second": lambda n, x: in_windows(
        lambda w: F.conv2d(w, n.map.weight, stride=2, padding=1), x, 4, 4
    ),
    "windows, dilated": lambda n, x: in_windows(
        lambda w: F.conv2d(w, n.map.weight, dilation=2, padding=2), x, 4, 4
    ),
    "windows, pooled": lambda n, x: in_windows(nn.AvgPool2d(3, 1, 1), x, 4, 4),
    "windows, depthwise": lambda n, x: in_windows(
        lambda w: F.conv2d(w, n.map.weight[:, :1], padding=1, groups=2), x, 4, 4
    ),
    "strips": lambda n, x: in_windows(n.map, x, 4, SIDE),
    "strips the other way": lambda n, x: in_windows(n.map, x, SIDE, 6),
    "windows in windows": lambda n, x: in_windows(lambda w: in_windows(n.map, w, 3, 2), x, 6, 4),
    "copies": lambda n, x: (
        torch.stack([x] * 4, 4).unflatten(4, (2, 2)).permute(0, 1, 2, 4, 3, 5).reshape(1, 2, 24, 24)
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_pieces_put_together_again_see_what_the_gradient_shows(name: str) -> None:
    module = Between(RIGHT[name])
    found = analyze(trace(module, SHAPE)).receptive_field
    assert found == oracle.support(oracle.linearize(module), SHAPE)[0]


REFUSED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "quarters": lambda n, x: F.pixel_shuffle(torch.cat(quarters(x), 1), 2),
    "corners": lambda n, x: squared(torch.stack(corners(x), 2)),
    "corners, a layer each": lambda n, x: squared(torch.stack([n.map(c) for c in corners(x)], 2)),
    "corners in the batch": lambda n, x: squared(n.map(torch.cat(corners(x))).transpose(0, 1)),
    "depthwise in the shuffle": lambda n, x: F.pixel_shuffle(n.deep(F.pixel_unshuffle(x, 2)), 2),
    "shifted by turns": lambda n, x: torch.stack([x.roll(3, 2), x.roll(-3, 2)], 3).flatten(2),
    "halves shifted": lambda n, x: torch.cat([x.roll(4, 2)[..., :6], x.roll(-4, 2)[..., 6:]], 3),
    "pixels in one line": lambda n, x: torch.stack(
        [n.mix(x[:, :, i, j]) for i in range(2) for j in range(2)], 2
    ),
    "rows and channels as a batch": lambda n, x: F.avg_pool1d(x.view(2 * SIDE, 1, SIDE), 3, 1, 1),
    "rows and their mean": lambda n, x: torch.stack([*x.unbind(2), x.mean(2)], 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pieces_that_would_be_taken_to_see_too_much_are_refused(name: str) -> None:
    def run(n: Any, x: Tensor) -> Tensor:
        y = REFUSED[name](n, x)
        return y if y.dim() == 4 else y.view(*y.shape[:2], -1, min(SIDE, y.shape[2]))

    with pytest.raises(
        UnknownOperationError, match=r"see different places|what is none|beside copies"
    ):
        trace(Between(run), SHAPE)


def test_a_layer_that_takes_rows_for_channels_reads_all_and_says_so() -> None:
    graph = trace(Between(lambda n, x: F.conv1d(x[0], torch.ones(SIDE, SIDE, 1))[None]), SHAPE)
    assert analyze(graph).receptive_field == (None, 5)
    assert [note for note in graph.notes if "reads the whole image" in note]


def test_an_output_of_maps_by_turns_is_refused() -> None:
    class Shuffled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.pixel_shuffle(torch.cat([x, x.roll(3, 2)], 1), 2)

    with pytest.raises(UnknownOperationError, match="see different places"):
        trace(Shuffled(), SHAPE)
