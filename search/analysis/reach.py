"""Receptive fields, exactly.

On each axis a unit sees a set of input pixels, kept as the position of the first and a bit
mask from there on; a convolution unites shifted masks, a join unites masks at their true
offsets.  Units repeat with a period (1, unless something up-samples), so one mask per phase
describes the infinite plane: the field is theoretical and not clipped by the image.  Araujo,
Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019,
gives the closed forms for chains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reach:
    """What the units of one axis see, or read, of another axis.

    Unit `q * len(phases) + r` sees position `q * shift + first + b` for every set bit `b`
    of the mask, where `(first, mask) = phases[r]`.  A mask of 0 sees nothing.  With
    `bounded` there is one phase per unit, and no unit beyond them (`shift` is unused).
    """

    phases: tuple[tuple[int, int], ...]
    shift: int
    bounded: bool = False

    def at(self, unit: int) -> tuple[int, int]:
        """First position and mask of one unit."""
        turns, phase = divmod(unit, len(self.phases))
        if self.bounded and turns:
            return 0, 0
        first, mask = self.phases[phase]
        return first + turns * self.shift, mask

    @property
    def empty(self) -> bool:
        """Nothing is seen that counts."""
        return not any(mask for _, mask in self.phases)

    @property
    def widest(self) -> tuple[int, int]:
        """The phase with the largest span."""
        return max(self.phases, key=lambda phase: phase[1].bit_length())

    @property
    def span(self) -> int:
        """Positions from the first to the last one seen, in the widest phase."""
        return self.widest[1].bit_length()

    @property
    def seen(self) -> int:
        """Positions truly seen in the widest phase: a stride may leave gaps in the span."""
        return self.widest[1].bit_count()

    @property
    def jump(self) -> int | float:
        """Positions between neighbouring units; the mean where it varies."""
        if self.bounded:
            firsts = [first for first, mask in self.phases if mask]
            step = (firsts[-1] - firsts[0]) / (len(firsts) - 1) if len(firsts) > 1 else 1.0
        else:
            step = self.shift / len(self.phases)
        return int(step) if step == int(step) else step

    @property
    def center(self) -> float:
        """Middle of what unit 0 sees: a position of the other axis, 0 its first."""
        first, mask = self.phases[0]
        return first + (mask.bit_length() - 1) / 2


IDENTITY = Reach(((0, 1),), 1)
NOTHING = Reach(((0, 0),), 0)  # global pooling, which does not count
FIRST = Reach(((0, 1),), 0)  # every unit reads unit 0: one copied to all


def window(kernel: int, stride: int = 1, before: int = 0, dilation: int = 1) -> Reach:
    """What a convolution or pooling reads: `kernel` taps `dilation` apart."""
    return Reach(((-before, sum(1 << tap * dilation for tap in range(kernel))),), stride)


def compose(outer: Reach, inner: Reach, size: int) -> Reach:
    """What `size` units see through two steps: they read `outer`, which sees `inner`."""
    if outer.bounded or inner.bounded:
        return Reach(tuple(_through(outer.at(i), inner) for i in range(size)), 0, True)
    turns = len(inner.phases) // math.gcd(outer.shift, len(inner.phases))
    period = len(outer.phases) * turns
    shift = outer.shift * turns // len(inner.phases) * inner.shift
    return Reach(tuple(_through(outer.at(i), inner) for i in range(period)), shift)


def _through(reads: tuple[int, int], inner: Reach) -> tuple[int, int]:
    first, mask = reads
    result = (0, 0)
    while mask:
        tap = (mask & -mask).bit_length() - 1
        result = _both(result, inner.at(first + tap))
        mask &= mask - 1
    return result


def _both(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    if not a[1] or not b[1]:
        return a if a[1] else b
    first = min(a[0], b[0])
    return first, a[1] << (a[0] - first) | b[1] << (b[0] - first)


def unite(a: Reach, b: Reach, size: int) -> Reach:
    """What `size` units see that see both `a` and `b`."""
    if a == b:
        return a
    same_jump = a.shift * len(b.phases) == b.shift * len(a.phases)
    if a.bounded or b.bounded or not same_jump:
        return Reach(tuple(_both(a.at(i), b.at(i)) for i in range(size)), 0, True)
    period = math.lcm(len(a.phases), len(b.phases))
    phases = tuple(_both(a.at(i), b.at(i)) for i in range(period))
    return Reach(phases, a.shift * period // len(a.phases))
