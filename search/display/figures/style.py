"""Colors, sizes and scales that all figures share."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from threading import RLock
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, GRAY, INK = "#56B4E9", "#CC79A7", "#8C8C8C", "#1A1A1A"
DARK_RED = "#A84300"  # vermilion that is legible as small text
CYCLE = (BLUE, ORANGE, GREEN, PURPLE)
WIDTH = 6.0  # inches: on a phone its text has 7 pixels
DPI = 160

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: figures agree across machines
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": GRAY,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CYCLE),
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.parse_math": False,  # the name of a class is no formula
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}

Pixels = NDArray[np.uint8]
Integers = Sequence[int] | NDArray[np.int64]
Shares = Sequence[float] | NDArray[np.float64]
History = Sequence[Mapping[str, Any]]
P = ParamSpec("P")
_LOCK = RLock()  # rcParams are one table for the whole process


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws in `STYLE`."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _LOCK, matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with _LOCK, matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def canvas(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, sizes in inches."""
    return Figure(figsize=(width, height), dpi=DPI)


def percent_scale(axes: Axes) -> None:
    """Percent along the vertical axis."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.005), min(high, 1.005))  # margins beyond 100 % mislead
    axes.yaxis.set_major_formatter(PercentFormatter(1))
