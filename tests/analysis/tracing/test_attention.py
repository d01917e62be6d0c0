"""Attention and sums within windows of a map: the field is the gradient's."""

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

SIDE = 16
SHAPE = (2, SIDE, SIDE)


class Windowed(nn.Module):
    """`run` between two 3x3 layers."""

    def __init__(self, run: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.last = nn.Conv2d(2, 2, 3, padding=1)
        self.wide = nn.Conv2d(2, 2, 7, padding=3)
        self.q, self.k, self.v = (nn.Linear(2, 2) for _ in range(3))
        self.heads = nn.MultiheadAttention(2, 2, batch_first=True)
        self.tokens = nn.Linear(16, 16)
        self.bias = nn.Parameter(torch.rand(1, 16, 16))
        self.query = nn.Parameter(torch.rand(1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, self.first(x)))

    def attend(self, x: Tensor) -> Tensor:
        return attention(self.q(x), self.k(x), self.v(x))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


def keys_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (v.mT @ (k @ q.mT).softmax(-2)).mT


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bnc,bmc->bnm", q, k).softmax(-1)
    return torch.einsum("bnm,bmc->bnc", scores, v)


def softmax_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return (weights / weights.sum(-1, keepdim=True)) @ v


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ (k.mT @ v)) / (q @ k.sum(1, keepdim=True).mT)


def of_channels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q.mT @ k).softmax(-1) @ v.mT).mT


def differential(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT).softmax(-1) - 0.3 * (k @ q.mT).softmax(-1)) @ v


def cut(x: Any, side: int = 4) -> Any:
    """Windows in the batch, their cells in a row, channels last."""
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(b, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, c)


def joined(t: Any, side: int = 4, size: int = SIDE) -> Any:
    t = t.reshape(1, size // side, size // side, side, side, -1)
    return t.permute(0, 5, 1, 3, 2, 4).reshape(1, -1, size, size)


def apart(n: Any, x: Any, attend: Callable[..., Tensor]) -> Tensor:
    t = cut(x)
    windows: Tensor = joined(attend(n.q(t), n.k(t), n.v(t)))
    return windows


def masked(n: Any, x: Any) -> Tensor:
    t = cut(x.roll((-2, -2), (2, 3)))
    mask = torch.ones(16, 16, 16, dtype=x.dtype).tril()
    scores = (n.q(t) @ n.k(t).mT).view(1, -1, 16, 16) + mask
    t = scores.view(-1, 16, 16).softmax(-1) @ n.v(t)
    rolled: Tensor = joined(t).roll((2, 2), (2, 3))
    return rolled


def residual(n: Any, x: Any) -> Tensor:
    t = cut(x)
    t = t + n.attend(t)
    together: Tensor = joined(t + n.v(t))
    return together


def strips(n: Any, x: Any) -> Tensor:
    t = n.attend(x.view(1, 2, SIDE, SIDE // 4, 4).permute(0, 2, 3, 4, 1))
    together: Tensor = t.permute(0, 4, 1, 2, 3).reshape(x.shape)
    return together


def with_a_border(n: Any, x: Any) -> Tensor:
    """Each window reads two pixels around it too."""
    t = x.view(1, 2, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(1, 16, 16, 2)
    around = F.unfold(x, 8, stride=4, padding=2).view(1, 2, 64, 16).permute(0, 3, 2, 1)
    together: Tensor = joined(attention(n.q(t), n.k(around), n.v(around)))
    return together


def shuffled(n: Any, x: Any) -> Tensor:
    t = F.pixel_unshuffle(x, 4).view(1, 2, 16, 4, 4).permute(0, 3, 4, 2, 1)
    return F.pixel_shuffle(n.attend(t).permute(0, 4, 3, 1, 2).reshape(1, 32, 4, 4), 4)


def six_dimensions(n: Any, x: Any) -> Tensor:
    t = x.view(1, 2, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1)
    scores = torch.einsum("bhwijc,bhwklc->bhwijkl", n.q(t), n.k(t))
    scores = scores.flatten(-2).softmax(-1).unflatten(-1, (4, 4))
    return torch.einsum("bhwijkl,bhwklc->bchiwj", scores, n.v(t)).reshape(x.shape)


def pooled_keys(n: Any, x: Any) -> Tensor:
    k = cut(F.avg_pool2d(x, 2), 2)
    together: Tensor = joined(attention(n.q(cut(x)), n.k(k), n.v(k)))
    return together


WINDOWS: dict[str, tuple[int, Callable[[Any, Any], Tensor]]] = {
    "plain": (10, lambda n, x: apart(n, x, attention)),
    "fused": (10, lambda n, x: apart(n, x, F.scaled_dot_product_attention)),
    "keys first": (10, lambda n, x: apart(n, x, keys_first)),
    "einsum": (10, lambda n, x: apart(n, x, by_einsum)),
    "einsum in six dimensions": (10, six_dimensions),
    "softmax by hand": (10, lambda n, x: apart(n, x, softmax_by_hand)),
    "linear attention": (10, lambda n, x: apart(n, x, linear_attention)),
    "of channels": (10, lambda n, x: apart(n, x, of_channels)),
    "differential": (10, lambda n, x: apart(n, x, differential)),
    "windows of 2": (6, lambda n, x: joined(n.attend(cut(x, 2)), 2)),
    "heads": (10, lambda n, x: joined(n.heads(*[cut(x)] * 3)[0])),
    "bias": (10, lambda n, x: apart(n, x, lambda q, k, v: (q @ k.mT + n.bias).softmax(-1) @ v)),
    "residual": (10, residual),
    "pixel shuffle": (10, shuffled),
    "pooled keys": (10, pooled_keys),
    "with a border": (14, with_a_border),
    "wide queries": (11, lambda n, x: joined(attention(n.q(cut(n.wide(x))), cut(x), cut(x)))),
    "wide values": (16, lambda n, x: joined(attention(cut(x), cut(x), cut(n.wide(x))))),
    "linear over the cells": (10, lambda n, x: joined(n.tokens(cut(x).mT).mT)),
    "softmax over the cells": (10, lambda n, x: joined(cut(x).softmax(1))),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_is_read_whole_and_no_more(name: str) -> None:
    """A window and the two layers around: 1 + (s + 1) + 2 at most, at the border of two windows."""
    field, run = WINDOWS[name]
    module = Windowed(run)
    assert analyze(trace(module, SHAPE)).receptive_field == (field, field)
    if field < SIDE:
        assert oracle.support(oracle.linearize(module), SHAPE)[0] == (field, field)


def test_the_roll_of_a_shifted_window_comes_back() -> None:
    def shifted(n: Any, x: Any) -> Tensor:
        return masked(n, apart(n, x, attention))

    module = Windowed(shifted)
    assert analyze(trace(module, SHAPE)).receptive_field == (14, 14)


def test_strips_leave_the_other_axis() -> None:
    module = Windowed(strips)
    found = analyze(trace(module, SHAPE)).receptive_field
    assert found == oracle.support(oracle.linearize(module), SHAPE)[0] == (5, 10)


def test_attention_along_one_axis_reads_all_of_it() -> None:
    module = Windowed(lambda n, x: n.attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    found = analyze(trace(module, SHAPE))
    assert found.receptive_field == (5, None)
    assert "along a whole axis" in found.notes[0]


def on_a_grid(n: Any, x: Any) -> Tensor:
    """What stands at the same place of each window attends to one another."""
    x = x.view(1, 2, 4, x.shape[2] // 4, 4, x.shape[3] // 4).permute(0, 3, 5, 2, 4, 1)
    t = n.attend(x.flatten(3, 4)).view(x.shape).permute(0, 5, 3, 1, 4, 2)
    together: Tensor = t.reshape(1, 2, t.shape[2] * t.shape[3], -1)
    return together


@pytest.mark.parametrize("side", [8, 16, 24])
def test_a_grid_over_the_whole_map_grows_with_it(side: int) -> None:
    """The gradient reaches over every image, however large, so that there is no number."""
    module, shape = Windowed(on_a_grid), (2, side, side)
    found = analyze(trace(module, shape))
    assert found.receptive_field == (None, None)
    assert "along a whole axis" in found.notes[0]
    assert oracle.support(oracle.linearize(module), shape)[0] == (side, side)


def tokens_of(x: Tensor) -> Any:
    return x.flatten(2).mT


def after_the_whole(n: Any, x: Tensor) -> Tensor:
    """Windows once every position has seen all of them: the tokens in windows are those of x."""
    t = n.attend(tokens_of(x))
    windows = tokens_of(joined(n.attend(cut(t.mT.unflatten(2, (SIDE, SIDE))))))
    return (t + windows).mT.unflatten(2, (SIDE, SIDE))


def test_windows_of_a_map_that_is_seen_whole_are_in_their_place() -> None:
    class Pooled(Windowed):
        def forward(self, x: Tensor) -> Tensor:
            x = self.run(self, self.first(x))
            x = self.merge(F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1))
            return (x + self.attend(x.flatten(1, 2)).view(x.shape)).mean((1, 2))

    module = Pooled(after_the_whole)
    module.merge = nn.Linear(8, 2)
    found = analyze(trace(module, SHAPE))
    assert (found.receptive_field, found.structure.output_cells) == ((None, None), 1)


class Classes(Windowed):
    """A class token before the tokens of a map, in `run` and behind it."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.query, tokens_of(self.first(x))], 1)
        result: Tensor = self.run(self, tokens)
        return result


def shrunk(n: Any, t: Tensor) -> Tensor:
    """The map behind the class token at half its size, behind it again."""
    small = n.last(F.avg_pool2d(t[:, 1:].mT.unflatten(2, (SIDE, SIDE)), 2))
    return torch.cat([t[:, :1], tokens_of(small)], 1)


def test_a_class_token_stands_before_maps_of_any_size() -> None:
    """Before attention it sees nothing: 1 + 2 + 1 + 2 * 2 = 8 pixels are the map's."""
    half = (SIDE // 2, SIDE // 2)
    module = Classes(lambda n, t: shrunk(n, n.q(t))[:, 1:].mT.unflatten(2, half))
    found = analyze(trace(module, SHAPE)).receptive_field
    assert found == oracle.support(oracle.linearize(module), SHAPE)[0] == (8, 8)


def written_behind(n: Any, t: Tensor) -> Tensor:
    scores = n.q(t) @ n.k(shrunk(n, t)).mT
    scores[:, 1:, 1:] = scores[:, 1:, 1:] + 1
    return (scores.softmax(-1) @ shrunk(n, t))[:, 0]


@pytest.mark.parametrize(
    "run",
    [
        written_behind,
        lambda n, t: torch.stack([n.attend(t)[:, 0], n.attend(shrunk(n, n.attend(t)))[:, 0]], 1),
    ],
)
def test_class_tokens_see_the_whole_after_attention(run: Callable[[Any, Tensor], Tensor]) -> None:
    found = analyze(trace(Classes(run), SHAPE))
    assert (found.receptive_field, found.structure.output_cells) == ((None, None), 1)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda n, x: joined(attention(cut(x), cut(x).roll(1, 0), cut(x))), "no grid"),
        (lambda n, x: apart(n, n.wide(x), lambda q, k, v: keys_first(q, cut(x), cut(x))), "places"),
    ],
)
def test_other_windows_are_refused_in_true_words(
    run: Callable[[Any, Any], Tensor], words: str
) -> None:
    with pytest.raises(UnknownOperationError, match=words):
        trace(Windowed(run), SHAPE)
