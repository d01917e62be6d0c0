"""Cells of windows, and elements moved in ways that are no product: the field is the gradient's."""

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

SIDE, CUT = 24, 4
SHAPE = (2, SIDE, SIDE)
COUNT = SIDE // CUT


class Cells(nn.Module):
    """`run` between two 3x3 layers."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.first, self.last = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(2))
        self.one = nn.Conv2d(2, 1, 1)
        self.weigh = nn.Linear(2, 81)
        self.cells = nn.Linear(18, 18)
        self.down, self.right = (nn.Parameter(torch.rand(11, 2)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.run(self, self.first(x)))
        return result


class Last(nn.Module):
    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def patches(x: Tensor, **how: int) -> Tensor:
    """Channels, the cells of 3 x 3 patches, and where they lie."""
    cells = F.unfold(x, 3, **how)
    side = round(cells.shape[2] ** 0.5)
    return cells.view(1, 2, 9, side, side)


def absolute(q: Tensor, weights: Tensor, order: tuple[int, ...]) -> Tensor:
    """What each cell of a window has to say to those of a window around, by their distance."""
    windows, height, width, _ = q.shape
    around = (len(weights) + 1) // 2
    x = (q @ weights.mT).reshape(-1, width, len(weights))
    x = F.pad(F.pad(x, [0, 1]).flatten(1), [0, len(weights) - width])
    x = x.reshape(-1, width + 1, len(weights))[:, :width, around - 1 :]
    x = x.reshape(windows, height, 1, width, around)
    return x.expand(-1, -1, around, -1, -1).permute(order)


def halo(n: Any, x: Tensor) -> Tensor:
    """Windows of 4 that read one pixel around them too, and know how far it is."""
    q = x.view(1, 2, COUNT, CUT, COUNT, CUT).permute(0, 1, 3, 5, 2, 4).reshape(1, 2, 16, -1)
    q = q.transpose(1, 3)
    around = F.pad(x, [1] * 4).unfold(2, 6, CUT).unfold(3, 6, CUT).reshape(1, 2, COUNT**2, -1)
    around = around.permute(0, 2, 3, 1)
    cells = q.reshape(-1, CUT, CUT, 2)
    told = absolute(cells, n.right, (0, 1, 3, 2, 4))
    told = told + absolute(cells.transpose(1, 2), n.down, (0, 3, 1, 4, 2))
    scores = (q @ around.mT + told.reshape(1, -1, 16, 36)).softmax(-1)
    result = (scores @ around).transpose(1, 3).reshape(-1, CUT, CUT, COUNT, COUNT)
    return result.permute(0, 3, 1, 4, 2).reshape(1, *SHAPE)


def outlook(n: Any, x: Tensor) -> Tensor:
    """Each place weighs the cells of the patch around it, and the patches are added up."""
    cells = F.unfold(x, 3, padding=1, stride=2).view(1, 1, 2, 9, -1).permute(0, 1, 4, 3, 2)
    weights = n.weigh(F.avg_pool2d(x, 2).permute(0, 2, 3, 1)).reshape(1, -1, 1, 9, 9)
    cells = (weights.permute(0, 2, 1, 3, 4).softmax(-1) @ cells).permute(0, 1, 4, 3, 2)
    return F.fold(cells.reshape(1, 18, -1), (SIDE, SIDE), 3, padding=1, stride=2)


def in_patches(n: Any, x: Tensor) -> Tensor:
    """A layer on each of the patches, and attention between the cells of each."""
    cells = F.unfold(x, CUT, stride=CUT).mT.reshape(-1, 2, CUT, CUT)
    cells = n.first(cells).flatten(2).mT
    cells = (cells @ cells.mT).softmax(-1) @ cells
    cells = cells.mT.reshape(1, -1, 2, CUT, CUT).permute(0, 2, 3, 4, 1)
    cells = cells.reshape(1, 2, CUT, CUT, COUNT, COUNT)
    return cells.permute(0, 1, 4, 2, 5, 3).reshape(1, *SHAPE)


def gated(n: Any, x: Tensor) -> Tensor:
    """Each window times a weighted mean of it."""
    cells = x.view(1, 2, COUNT, CUT, COUNT, CUT).permute(0, 1, 2, 4, 3, 5).reshape(1, 2, -1, 16)
    weighted = (n.one(cells).softmax(-1) * cells).sum(-1, keepdim=True)
    cells = (cells.relu() * weighted.expand_as(cells)).view(1, 2, COUNT, COUNT, CUT, CUT)
    return cells.permute(0, 1, 2, 4, 3, 5).reshape(1, *SHAPE)


def centered(n: Any, x: Tensor) -> Tensor:
    """Each window without its mean."""
    cells = x.unflatten(2, (COUNT, CUT)).unflatten(4, (COUNT, CUT))
    return (cells - cells.mean((3, 5), keepdim=True)).reshape(x.shape)


RIGHT: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "first cell": lambda n, x: patches(x)[:, :, 0],
    "middle cell": lambda n, x: patches(x, padding=1)[:, :, 4] + x,
    "two cells": lambda n, x: patches(x, padding=2, dilation=2)[:, :, 1:3].sum(2),
    "all cells": lambda n, x: patches(x, stride=2).amax(2),
    "cells in rows": lambda n, x: x.unfold(2, 3, 1)[..., 0],
    "cells in rows and columns": lambda n, x: x.unfold(2, 5, 1).unfold(3, 3, 2)[..., 1:3, 2].sum(4),
    "patches side by side": lambda n, x: (
        F.unfold(x, CUT, stride=CUT)
        .view(1, 2, CUT, CUT, COUNT, COUNT)
        .permute(0, 1, 4, 2, 5, 3)
        .reshape(x.shape)
    ),
    "folded": lambda n, x: F.fold(
        n.cells(F.unfold(x, 3, padding=1, stride=2).mT).mT, x.shape[2:], 3, padding=1, stride=2
    ),
    "folded, dilated": lambda n, x: F.fold(
        n.cells(F.unfold(x, 3, dilation=2).mT).mT, x.shape[2:], 3, dilation=2
    ),
    "halo": halo,
    "outlook": outlook,
    "in patches": in_patches,
    "gated": gated,
    "centered": centered,
}


@pytest.mark.parametrize("name", RIGHT)
def test_cells_read_what_the_gradient_shows(name: str) -> None:
    module = Cells(RIGHT[name])
    found = analyze(trace(module, SHAPE)).receptive_field
    assert found == oracle.support(oracle.linearize(module), SHAPE, reach=CUT)[0]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            lambda n, x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1),
            "see different places",
        ),
        (
            lambda n, x: F.pad(x.transpose(1, 3).flatten(2), [0, 2])[:, :, 2:].relu(),
            "no grid since",
        ),
    ],
)
def test_cells_that_are_no_map_again_are_refused(
    run: Callable[[Any, Tensor], Tensor], words: str
) -> None:
    with pytest.raises(UnknownOperationError, match=words):
        trace(Cells(run), SHAPE)


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: x[..., SIDE:],
        lambda n, x: x[..., 5:5],
        lambda n, x: x[:, 2:],
        lambda n, x: x.narrow(2, 0, 0),
        lambda n, x: x.split([0, SIDE], 3)[0],
        lambda n, x: F.pad(x, (0, -SIDE)),
    ],
)
def test_what_leaves_nothing_is_refused_in_words(run: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(UnknownOperationError, match="it leaves a map without positions"):
        trace(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), Last(run)), SHAPE)


def test_an_empty_part_that_nobody_reads_is_none_of_the_network() -> None:
    module = Cells(lambda n, x: x.split([0, 2], 1)[1] + x.split([0, SIDE], 3)[1])
    assert analyze(trace(module, SHAPE)).receptive_field == (5, 5)
