"""Receptive fields, exactly.

On each axis a unit sees a set of input pixels, kept as the position of the first and a bit
mask from there on; a convolution unites shifted masks, a join unites masks at their true
offsets.  Units repeat with a period (1, unless something up-samples), so one mask per phase
describes the infinite plane: the field is theoretical and not clipped by the image.  Araujo,
Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019,
gives the closed forms for chains.

A map put together from pieces has seams.  Each piece describes a plane of its own, and a unit
belongs to the piece that holds the middle of what it reads: what lies beyond the seam counts
as a border, which stands for more of the same, as every border does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from search.networks.architecture import ArchitectureError

# Periods beyond it are cut: a chain of resizings multiplies them, though every unit that
# exists is soon described.  What is cut moves units by less than 1 / LONGEST positions.
LONGEST = 2048

WIDEST = 2**22
"""Positions that a unit's may lie apart, and between neighbouring units: far beyond any image.  A
few strides of 64 multiply to masks of gigabytes."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What the units of one axis see, or read, of another axis.

    Unit `q * len(phases) + r` sees position `q * shift + first + b` for every set bit `b`
    of the mask, where `(first, mask) = phases[r]`.  A mask of 0 sees nothing.  From the unit
    of each of `seams` on another plane holds instead, which has none itself.
    """

    phases: tuple[tuple[int, int], ...]
    shift: int
    seams: tuple[tuple[int, Reach], ...] = ()

    def at(self, unit: int) -> tuple[int, int]:
        """First position and mask of one unit."""
        plane = self.plane(unit) if self.seams else self
        turns, phase = divmod(unit, len(plane.phases))
        first, mask = plane.phases[phase]
        return first + turns * plane.shift, mask

    @property
    def planes(self) -> tuple[tuple[int, Reach], ...]:
        """The planes in order, each with its first unit."""
        if not self.seams:
            return ((0, self),)
        return ((0, replace(self, seams=())), *self.seams)

    def plane(self, unit: int) -> Reach:
        """The plane that `unit` belongs to."""
        return next(plane for start, plane in reversed(self.planes) if start <= max(unit, 0))

    @property
    def empty(self) -> bool:
        """Nothing is seen that counts."""
        return not any(mask for _, plane in self.planes for _, mask in plane.phases)

    @property
    def widest(self) -> tuple[int, int]:
        """The phase with the largest span; of several, the one that sees most of it."""
        phases = (phase for _, plane in self.planes for phase in plane.phases)
        return max(phases, key=lambda phase: (phase[1].bit_length(), phase[1].bit_count()))

    @property
    def span(self) -> int:
        """Positions from the first to the last one seen, in the widest phase."""
        return self.widest[1].bit_length()

    @property
    def seen(self) -> int:
        """Positions truly seen in the widest phase: a stride may leave gaps in the span."""
        return self.widest[1].bit_count()

    @property
    def step(self) -> Fraction:
        """Positions between neighbouring units, on the average; negative in a mirror."""
        return Fraction(self.shift, len(self.phases))

    @property
    def jump(self) -> int | float:
        """Positions between neighbouring units, to four decimals where it varies."""
        step = abs(self.step)
        return int(step) if step.denominator == 1 else round(float(step), 4)

    @property
    def center(self) -> float:
        """Middle of what unit 0 sees: a position of the other axis, 0 its first."""
        first, mask = self.phases[0]
        return first + (mask.bit_length() - 1) / 2

    @property
    def extended(self) -> Reach:
        """The same where planes that see nothing are borders of those beside them."""
        if not self.seams:
            return self
        return _joined([entry for entry in self.planes if not entry[1].empty] or self.planes[:1])


IDENTITY = Reach(((0, 1),), 1)
NOTHING = Reach(((0, 0),), 0)  # global pooling, which does not count
FIRST = Reach(((0, 1),), 0)  # every unit reads unit 0: one copied to all


def window(kernel: int, stride: int = 1, before: int = 0, dilation: int = 1) -> Reach:
    """What a convolution or pooling reads: `kernel` taps `dilation` apart.

    Raises:
        ArchitectureError: more than `WIDEST` positions.
    """
    _require_narrow((kernel - 1) * dilation)
    return Reach(((-before, sum(1 << tap * dilation for tap in range(kernel))),), stride)


def within(reach: Reach, start: int, stop: int) -> Reach:
    """`reach`, which has no seams, for units from `start` to before `stop`; others see nothing."""
    return _joined([(0, NOTHING), (start, reach), (stop, NOTHING)])


def listed(positions: Sequence[int], mask: int = 1) -> Reach:
    """Unit by unit the first position; a plane for each run of equal steps."""
    planes, start = [], 0
    while start < len(positions):
        stop, step = start + 1, 0
        if stop < len(positions):
            step = positions[stop] - positions[start]
        while stop < len(positions) and positions[stop] - positions[stop - 1] == step:
            stop += 1
        planes.append((start, Reach(((positions[start] - start * step, mask),), step)))
        start = stop
    return _joined(planes)


def regular(reach: Reach, size: int) -> Reach:
    """The same where planes of a unit or two, one beside the other, are one plane as far as
    their steps repeat: rows put together one by one, or each of them twice."""
    if not reach.seams:
        return reach
    starts = [start for start, _ in reach.planes]
    short = {a: b for a, b in itertools.pairwise([*starts, size]) if b - a <= 2}
    planes: list[tuple[int, Reach]] = []
    stop = 0
    for start, plane in reach.planes:
        if start < stop:
            continue
        stop = start
        while stop in short:
            stop = short[stop]
        alone = stop == short.get(start, start)
        planes += [(start, plane)] if alone else _runs(reach, start, stop)
    return _joined(planes)


def _runs(reach: Reach, start: int, stop: int) -> Iterator[tuple[int, Reach]]:
    """The longest runs of units whose steps repeat, each as a plane."""
    seen = [reach.at(unit) for unit in range(start, stop)]
    while start < stop:
        periods = range(1, len(seen) // 2 + 1)
        period = max(periods, key=lambda period: _repeats(seen, period), default=0)
        count = _repeats(seen, period) if period else 0
        if count < 2 * period or not period:
            yield start, reach.plane(start)
            count = 1
        else:
            shift = seen[period][0] - seen[0][0]
            phases = [(0, 0)] * period
            for unit, (first, mask) in enumerate(seen[:period], start):
                phases[unit % period] = first - unit // period * shift, mask
            yield start, Reach(tuple(phases), shift)
        seen = seen[count:]
        start += count


def _repeats(seen: Sequence[tuple[int, int]], period: int) -> int:
    """How many units follow each the one `period` before, at one distance."""
    shift = seen[period][0] - seen[0][0]
    for unit in range(period, len(seen)):
        first, mask = seen[unit - period]
        if seen[unit] != (first + shift, mask):
            return unit
    return len(seen)


def _joined(planes: Iterable[tuple[int, Reach]]) -> Reach:
    """One reach of planes in order; of several from one unit on the last holds."""
    kept: list[tuple[int, Reach]] = []
    for start, plane in planes:
        if kept and kept[-1][0] == start:
            kept.pop()
        if not kept or kept[-1][1] != plane:
            kept.append((start, plane))
    return replace(kept[0][1], seams=tuple(kept[1:]))


def compose(outer: Reach, inner: Reach, size: int) -> Reach:
    """What `size` units see through two steps: they read `outer`, which sees `inner`.

    Raises:
        ArchitectureError: positions further apart than `WIDEST`.
    """
    if not (outer.seams or inner.seams):
        return _composed(outer, inner)
    planes: list[tuple[int, Reach]] = []
    before: tuple[Reach, Reach] | None = None
    for unit in range(size):
        reads = outer.plane(unit)
        first, mask = reads.at(unit)
        both = reads, inner.plane(first + (mask.bit_length() - 1) // 2)
        if both != before:
            planes.append((unit, _composed(*both)))
            before = both
    return _joined(planes)


def _composed(outer: Reach, inner: Reach) -> Reach:
    turns = len(inner.phases) // math.gcd(outer.shift, len(inner.phases))
    period = len(outer.phases) * turns
    shift = outer.shift * turns // len(inner.phases) * inner.shift
    period, shift = _cut(period, shift)
    _require_narrow(abs(shift) // period)
    return Reach(tuple(_through(outer.at(i), inner) for i in range(period)), shift)


def _cut(period: int, shift: int) -> tuple[int, int]:
    """A period of at most `LONGEST` units with nearly the same step."""
    if period <= LONGEST:
        return period, shift
    step = Fraction(shift, period).limit_denominator(LONGEST)
    turns = LONGEST // step.denominator
    return step.denominator * turns, step.numerator * turns


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
    _require_narrow(max(a[0], b[0]) - first)
    return first, a[1] << (a[0] - first) | b[1] << (b[0] - first)


def _require_narrow(distance: int) -> None:
    if distance > WIDEST:
        raise ArchitectureError(f"a unit sees pixels more than {WIDEST:,} apart")


def unite(a: Reach, b: Reach, size: int) -> Reach:
    """What `size` units see that see both `a` and `b`."""
    if a == b:
        return a
    if not (a.seams or b.seams):
        return _united(a, b, size)
    starts = sorted({start for start, _ in (*a.planes, *b.planes)})
    return _joined((start, _united(a.plane(start), b.plane(start), size)) for start in starts)


def _united(a: Reach, b: Reach, size: int) -> Reach:
    if a == b or a.empty or b.empty:
        return b if a.empty else a
    if a.step == b.step:
        period = math.lcm(len(a.phases), len(b.phases))
        period, shift = _cut(period, a.shift * period // len(a.phases))
    else:  # They drift apart, so only the units that exist are described, and repeated.
        regular = min(a, b, key=lambda plane: (len(plane.phases), -abs(plane.step)))
        period, shift = size, round(size * regular.step)
    return Reach(tuple(_both(a.at(i), b.at(i)) for i in range(period)), shift)
