"""Maps made anew at another size."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

from search.analysis.graph import Window
from search.analysis.reach import LONGEST, Reach
from search.analysis.tracing.calls import Call, Value, handles
from search.analysis.tracing.layout import length
from search.analysis.tracing.windows import windowed


@handles(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
)  # fmt: skip
def _upsample(call: Call) -> Value:
    return _resized(call, int(call.name[-2]), partial(_resampled, call.name))


@handles("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def _antialiased(call: Call) -> Value:
    """Resizing whose filter grows with the step."""
    return _resized(call, 2, partial(_smoothed, 2 if "cubic" in call.name else 1))


def _resized(call: Call, rank: int, reads: Callable[[Fraction, bool], Reach]) -> Value:
    """What is made anew along the last `rank` dimensions; `reads` says what each point reads,
    by their step and whether the corners are aligned."""
    source = call.value("self")
    sizes = call.shape[-rank:]
    have = [length(dim) for dim in source.dims[-rank:]]
    corners = call.arguments.get("align_corners", False)
    how = [
        reads(_step(n, want, given, corners), corners)
        for n, want, given in zip(have, sizes, _scales(call, rank), strict=True)
    ]
    return windowed(call, source, rank, how, "upsample", Window.cell(rank))


def _scales(call: Call, rank: int) -> list[float | None]:
    if rank == 1:
        return [call.arguments.get("scales")]
    return [call.arguments.get(f"scales_{side}") for side in "dhw"[-rank:]]


def _step(size: int, count: int, scale: float | None, corners: bool) -> Fraction:
    if corners:
        return Fraction(size - 1, count - 1) if count > 1 else Fraction(0)
    return Fraction(size, count) if not scale else Fraction(1 / scale).limit_denominator(LONGEST)


def _resampled(name: str, step: Fraction, corners: bool) -> Reach:
    """What each point reads, as torch places them."""
    middle = Fraction(0) if corners or "nearest2d" in name else Fraction(1, 2)
    middle = Fraction(0) if "upsample_nearest" in name and "exact" not in name else middle
    phases = []
    for point in range(step.denominator):
        position = (point + middle) * step - (0 if "nearest" in name else middle)
        first = math.floor(position)
        taps = 1 if "nearest" in name or position == first else 4 if "cubic" in name else 2
        phases.append((first - (taps == 4), (1 << taps) - 1))
    return Reach(tuple(phases), step.numerator)


def _smoothed(radius: int, step: Fraction, _: bool) -> Reach:
    """What each point reads with antialiasing: all nearer than the filter's radius, which is in
    steps where these are longer than a pixel.  Corners only change the step."""
    reach = radius * max(step, Fraction(1))
    phases = []
    for point in range(step.denominator):
        middle = (point + Fraction(1, 2)) * step - Fraction(1, 2)
        first = math.floor(middle - reach) + 1
        phases.append((first, (1 << (math.ceil(middle + reach) - first)) - 1))
    return Reach(tuple(phases), step.numerator)
