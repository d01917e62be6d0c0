"""What trials are compared by: a value for each of `study.objectives`."""

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
