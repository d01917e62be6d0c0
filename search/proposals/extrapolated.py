"""What a pruned trial would have reached, for a sampler that learns from values."""

from __future__ import annotations

import copy
import statistics
from collections import defaultdict
from collections.abc import Sequence

from optuna.trial import FrozenTrial


def extrapolated(
    pruned: Sequence[FrozenTrial], completed: Sequence[FrozenTrial]
) -> list[FrozenTrial]:
    """The `pruned` trials, each with its last report and the median of what the `completed` ones
    gained from that epoch on; a trial that reported nothing, or no completed one at that epoch,
    is left out."""
    gains: dict[int, list[float]] = defaultdict(list)
    for trial in completed:
        for epoch, value in trial.intermediate_values.items():
            gains[epoch].append(trial.values[0] - value)
    medians = {epoch: statistics.median(gained) for epoch, gained in gains.items()}
    found = []
    for trial in pruned:
        last = max(trial.intermediate_values, default=None)
        if last in medians:
            found.append(copy.copy(trial))
            found[-1].value = trial.intermediate_values[last] + medians[last]
    return found
