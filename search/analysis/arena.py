"""Where TensorFlow Lite Micro places feature maps: its greedy planner, as arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter

ALIGNMENT = 16  # bytes, of every buffer in the arena

Buffer = tuple[int, int, int]  # aligned bytes, the step that writes it, the last step that reads it


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` bytes rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


def planned(buffers: Sequence[Buffer], steps: int) -> int:
    """Bytes that the planner needs for `buffers`, aligned, which live in steps 0 to `steps`.

    It places one buffer after the other, the largest first (of equals the later one), into
    the lowest gap between those that live at the same time: `GreedyMemoryPlanner` in
    tensorflow/lite/micro/memory_planner, after Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference", 2020.
    """
    placed: list[list[tuple[int, int]]] = [[] for _ in range(steps + 1)]
    top = 0
    rising = sorted(buffers, key=itemgetter(0))
    for size, first, last in reversed(rising):
        lived = placed[first : last + 1]
        start = 0
        for low, high in sorted(chain.from_iterable(lived)):
            if low - start >= size:
                break
            if high > start:
                start = high
        for step in lived:
            step.append((start, start + size))
        if start + size > top:
            top = start + size
    return top
