"""All runs of all arms, summed up: the JSON document and the Markdown that is printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.arms import DEFAULT, RANDOM
from benchmarks.search.simulation import HORIZON, Run
from benchmarks.search.world import Landscape, World

AFTER = (25, 50, 100)  # trainings' worth of PFLOP
_RESAMPLES = 2_000

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Any]


def interval(values: Floats, statistic: Statistic) -> tuple[float, float, float]:
    """`statistic` of the rows of `values`, and its 95 % interval by the bootstrap."""
    rng = np.random.default_rng(0)
    draws = [
        statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(draws, [0.025, 0.975], method="nearest")
    return float(statistic(values)), float(low), float(high)


def document(
    landscape: Landscape, worlds: Sequence[World], runs: dict[str, list[Run]]
) -> dict[str, Any]:
    """The numbers, plain.  A study that never finds one of the best hundredth counts as
    beyond all that do: a median is null where half of them do not."""
    quality = landscape.surrogate.quality
    return {
        "networks": len(landscape.rows),
        "noise": landscape.noise,
        "surrogate": {
            "family": landscape.family,
            "spearman": quality.spearman,
            "ceiling": quality.ceiling,
        },
        "training_pflop": worlds[0].training,
        "arms": {
            name: _arm(done, runs[RANDOM], worlds) | _beside(done, runs.get(DEFAULT), worlds)
            for name, done in runs.items()
        },
        "default": DEFAULT,
    }


def _arm(runs: Sequence[Run], random: Sequence[Run], worlds: Sequence[World]) -> dict[str, Any]:
    median, low, high = interval(_costs(runs, worlds), _median)
    accuracies = {n: interval(_exported(runs, worlds, n), np.mean) for n in AFTER}
    slots, proposals = sum(run.slots for run in runs), sum(run.proposals for run in runs)
    trained = sum(len(run.steps) for run in runs)
    return {
        "studies": len(runs),
        "pflop_to_top1": {"median": _or_none(median), "low": low, "high": _or_none(high)},
        "random_over_this": _times(random, runs, worlds),
        "true_accuracy": {str(n): value for n, (value, _, _) in accuracies.items()},
        "true_accuracy_interval": {str(n): [a, b] for n, (_, a, b) in accuracies.items()},
        "wasted": {"slots": 1 - trained / slots, "proposals": 1 - trained / proposals},
    }


def _beside(
    runs: Sequence[Run], default: Sequence[Run] | None, worlds: Sequence[World]
) -> dict[str, Any]:
    """What it needs of the default's cost, times, and by how much its export is better, in the
    same worlds."""
    if default is None:
        return {}
    paired = min(len(runs), len(default))
    better = {
        str(n): interval(
            _exported(runs[:paired], worlds, n) - _exported(default[:paired], worlds, n), np.mean
        )
        for n in AFTER
    }
    return {
        "this_over_default": _times(runs, default, worlds),
        "better_than_default": {
            n: dict(zip(("mean", "low", "high"), found, strict=True)) for n, found in better.items()
        },
    }


def _times(those: Sequence[Run], these: Sequence[Run], worlds: Sequence[World]) -> dict[str, float]:
    """How many times the cost of `these` it is that `those` need in the same worlds."""
    pairs = list(zip(_costs(those, worlds), _costs(these, worlds), strict=False))
    capped = np.minimum(pairs, HORIZON * worlds[0].training)
    return dict(zip(("ratio", "low", "high"), interval(capped, _ratio), strict=True))


def _costs(runs: Sequence[Run], worlds: Sequence[World]) -> Floats:
    found = [run.cost_to(world.best_hundredth) for run, world in zip(runs, worlds, strict=False)]
    return np.array([math.inf if cost is None else cost for cost in found])


def _exported(runs: Sequence[Run], worlds: Sequence[World], trainings: int) -> Floats:
    """A study without a finished training would export what guesses: chance."""
    found = [
        run.exported(trainings * world.training) for run, world in zip(runs, worlds, strict=False)
    ]
    return np.array([0.1 if true is None else true for true in found])


def _median(values: Floats) -> float:
    """The lower one of two: the mean of two would be infinite where one is."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def _ratio(pairs: Floats) -> float:
    return _median(pairs[:, 0]) / _median(pairs[:, 1])


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def markdown(told: dict[str, Any]) -> str:
    """The document as people read it."""
    surrogate, training, arms = told["surrogate"], told["training_pflop"], told["arms"]
    lines = [
        f"{told['networks']} networks; seeds of one differ by {100 * told['noise']:.2f} points "
        f"(standard deviation); surrogate: {surrogate['family']}, 10-fold Spearman "
        f"{surrogate['spearman']:.3f} of at most {surrogate['ceiling']:.3f}. A mean training costs "
        f"{1e3 * training:.2f} TFLOP; costs are in such trainings. Default: {told['default']}.",
        "",
        "| arm | studies | to the best 1 %, median | random needs, times | "
        + " | ".join(f"true accuracy after {n}, %" for n in AFTER)
        + " | wasted slots, proposals, % |",
        f"|{'---|' * (5 + len(AFTER))}",
        *(_line(name, arm, training) for name, arm in arms.items()),
    ]
    beside = [_beside_line(name, arm) for name, arm in arms.items() if "this_over_default" in arm]
    if beside:
        better = " | ".join(f"better after {n}, points" for n in AFTER)
        lines += ["", f"| arm | needs of the default's cost, times | {better} |"]
        lines += [f"|{'---|' * (2 + len(AFTER))}", *beside]
    return "\n".join(lines)


def _beside_line(name: str, arm: dict[str, Any]) -> str:
    ratio = arm["this_over_default"]
    better = [
        f"{100 * each['mean']:+.2f} ({100 * each['low']:+.2f} to {100 * each['high']:+.2f})"
        for each in arm["better_than_default"].values()
    ]
    times = f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return f"| {' | '.join([name, times, *better])} |"


def _line(name: str, arm: dict[str, Any], training: float) -> str:
    def trainings(cost: float | None) -> str:
        return f"> {HORIZON}" if cost is None else f"{cost / training:.0f}"

    cost, ratio = arm["pflop_to_top1"], arm["random_over_this"]
    accuracies = [
        f"{100 * arm['true_accuracy'][str(n)]:.2f} ({100 * low:.2f} to {100 * high:.2f})"
        for n in AFTER
        for low, high in [arm["true_accuracy_interval"][str(n)]]
    ]
    wasted = f"{100 * arm['wasted']['slots']:.0f}, {100 * arm['wasted']['proposals']:.0f}"
    median, low, high = (trainings(cost[key]) for key in ("median", "low", "high"))
    cells = [
        name,
        str(arm["studies"]),
        f"{median} ({low} to {high})",
        f"{ratio['ratio']:.1f} ({ratio['low']:.1f} to {ratio['high']:.1f})",
        *accuracies,
        wasted,
    ]
    return f"| {' | '.join(cells)} |"
