"""What trials are compared by: a value for each of `study.objectives`, and which is the best."""

from __future__ import annotations

import math

from search.config.sections import StudySection
from search.storage.trials import Attributes


def values(carried: Attributes, accuracy: float, study: StudySection) -> tuple[float, ...]:
    """The objectives of a trial that ended with `accuracy`, in their order.

    A trial that never reached the target has no cost to it, so all others are better: its
    `pflop` is infinite, which samplers rank last.
    """
    to_target = math.inf if carried.pflop_to_target is None else carried.pflop_to_target
    known = {"accuracy": accuracy, "pflop": to_target}
    return tuple(
        known[goal] if goal in known else float(getattr(carried, goal) or 0.0)
        for goal in study.objectives
    )


def merit(accuracy: float, pflop_to_target: float | None, study: StudySection) -> tuple[float, ...]:
    """A key that sorts the best trial first: by its cost to the target where that is an
    objective; by accuracy where it is none, and among trials that never reached the target."""
    cost = pflop_to_target if study.goes_on and pflop_to_target is not None else math.inf
    return cost, -accuracy
