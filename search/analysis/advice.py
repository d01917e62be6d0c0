"""What is legal in a network, but wasteful."""

from __future__ import annotations

from collections.abc import Iterator

from search.analysis.table import Analysis, LayerRow


def advice(analysis: Analysis) -> tuple[str, ...]:
    """What is legal but wasteful, a line each."""
    lines = [line for row in analysis.layers for line in _about(row)]
    image = analysis.layers[0].n_in if analysis.layers else ()
    for field, side in zip(analysis.receptive_field, image, strict=False):
        if field is not None and field > 3 * side:
            lines.append(
                f"the receptive field of {field} is {field / side:.1f} times the image's {side} "
                "pixels: most of it is padding"
            )
            break
    return tuple(lines)


def _about(row: LayerRow) -> Iterator[str]:
    window = row.window
    if row.kind in ("transposed", "upsample") or max(window.kernel) == 1:
        return
    for k, d, n in zip(window.kernel, window.dilation, row.n_in, strict=True):
        if d > 1 and d * (k - 1) + 1 > n:
            yield f"{row.name}: dilation {d} spreads its kernel over {d * (k - 1) + 1} of {n} units"
            break
    share = _inside(row)
    if share < 0.5:
        yield f"{row.name}: {1 - share:.0%} of what its kernel reads is padding"


def _inside(row: LayerRow) -> float:
    """The share of a window's taps, over all its places, that lie on the map."""
    window, share = row.window, 1.0
    for k, s, (before, _), d, n, count in zip(
        window.kernel,
        window.stride,
        window.padding,
        window.dilation,
        row.n_in,
        row.n_out,
        strict=True,
    ):
        places = (i * s - before + tap * d for i in range(count) for tap in range(k))
        share *= sum(0 <= place < n for place in places) / (count * k)
    return share
