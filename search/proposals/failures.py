"""What a sampler learns from a trial that failed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.storage.trials import has_network


def as_worst(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> list[FrozenTrial]:
    """`trials`, where those whose training failed have completed with the worst values of those
    that did.

    Optuna's samplers leave failed trials out, and would propose again and again what diverges or
    takes more time or memory than there is.  Where nothing has completed, nothing changes.
    """
    if not any(map(_failed, trials)):  # a sampler asks several times a proposal
        return list(trials)
    columns = list(zip(*(t.values for t in trials if t.state == TrialState.COMPLETE), strict=True))
    worst = [
        min(column) if direction is StudyDirection.MAXIMIZE else max(column)
        for column, direction in zip(columns, directions, strict=False)
    ]
    return [_completed(t, worst) if worst and _failed(t) else t for t in trials]


def _failed(trial: FrozenTrial) -> bool:
    """Whether the trial failed in its training; before it, its parameters are not to blame."""
    return trial.state == TrialState.FAIL and has_network(trial)


def _completed(trial: FrozenTrial, values: Sequence[float]) -> FrozenTrial:
    completed = copy.copy(trial)
    completed.state = TrialState.COMPLETE
    completed.values = list(values)
    completed.intermediate_values = {}  # they do not lead to these values
    return completed
