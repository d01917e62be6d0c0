"""Rows of a landscape as if networks had been trained."""

from __future__ import annotations

import math

from benchmarks.landscape.recipes import Job, drawn
from benchmarks.landscape.table import Row


def row(index: int, *accuracies: float, seed: int = 0) -> Row:
    """A short training of the uniform network of that number, by its accuracies."""
    job = Job("repeat" if seed else "random", index, "short", seed, drawn(index))
    return Row(
        kind=job.kind,
        index=index,
        recipe=job.recipe,
        seed=seed,
        choices=job.choices,
        architecture=job.candidate.architecture.hash,
        candidate=job.candidate.hash,
        receptive_field=45 + index,
        parameters=190_000,
        macs=10_000_000,
        accuracies=accuracies,
        losses=tuple(-math.log(value) for value in accuracies),
        diverged=False,
        seconds=1.0,
        processor_seconds=1.0,
        device="cpu",
        versions={"torch": "2"},
    )
