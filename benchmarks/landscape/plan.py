"""Which networks are trained, in an order that makes the table useful early.

The noise is known from the first ten networks on, and a prefix of the long trainings is
spread over the ranks as all of them are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.landscape.recipes import Job, drawn
from benchmarks.landscape.table import RecipeName, Row
from search.proposals.filling import Choices

SEEDS = (1, 2, 3)
GOLDEN = 0.6180339887498949
"""Multiples of it, modulo one, fill the interval evenly at any number of them."""


@dataclass(frozen=True)
class Request:
    """How many uniform networks, how many of those with three more seeds, which others, and
    how many of the uniform ones by the whole recipe as well."""

    random: int = 400
    repeats: int = 40
    named: tuple[Choices, ...] = ()
    whole: int = 30
    recipe: RecipeName = "short"


def jobs(request: Request, rows: Sequence[Row]) -> Iterator[Job]:
    """All that is asked for, trained already or not.

    The long trainings are of networks spread over the ranks of the first half, and follow
    one by one between those of the second; before that half is trained, there are none.
    """
    half = request.random // 2
    long, given = whole(rows, half, request.whole), 0
    every = max(1, request.random // max(1, request.repeats))
    for index in range(request.random):
        yield Job("random", index, request.recipe, 0, drawn(index))
        repeated, rest = divmod(index, every)
        if rest == every - 1 and repeated < request.repeats:
            first = index - rest
            yield from (Job("repeat", first, request.recipe, s, drawn(first)) for s in SEEDS)
        if index >= half:
            due = (index + 1 - half) * request.whole // (request.random - half)
            yield from long[given:due]
            given = due
    for choices in request.named:
        yield Job("guided", None, request.recipe, 0, choices)


def whole(rows: Sequence[Row], first: int, count: int) -> list[Job]:
    """`count` of the first `first` uniform networks by the whole recipe."""
    found = {
        row.index: row.accuracy
        for row in rows
        if row.kind == "random" and row.recipe == "short" and (row.index or 0) < first
    }
    if len(found) < first or not first:
        return []
    ranked = sorted(found, key=lambda index: (found[index], index))
    places = [int((GOLDEN * place) % 1 * first) for place in range(count)]
    return [Job("random", ranked[p], "whole", 0, drawn(ranked[p] or 0)) for p in places]
