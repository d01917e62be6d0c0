"""Pruned trials, as a sampler sees them that learns from values."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from search.proposals.extrapolated import extrapolated


def trial(*reports: float, end: float | None = None) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if end is None else TrialState.COMPLETE,
        value=end,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        intermediate_values=dict(enumerate(reports, 1)),
    )


COMPLETED = [
    trial(0.2, 0.4, 0.50, end=0.50),  # gains 0.3 from the first epoch on, 0.1 from the second
    trial(0.3, 0.5, 0.65, end=0.65),  # 0.35, 0.15
    trial(0.1, 0.2, 0.60, end=0.60),  # 0.5, 0.4
]


@pytest.mark.parametrize(
    ("reports", "value"), [([0.15], 0.5), ([0.15, 0.25], 0.40), ([0.1, 0.2, 0.3], 0.3)]
)
def test_it_gains_what_completed_trials_did_from_its_last_epoch_on(
    reports: list[float], value: float
) -> None:
    pruned = trial(*reports)
    (found,) = extrapolated([pruned], COMPLETED)
    assert found.value == pytest.approx(value)
    assert found.params == pruned.params
    assert pruned.value is None  # Optuna's own record of it is left alone


@pytest.mark.parametrize("silent", [trial(), trial(0.1, 0.2, 0.3, 0.4)])
def test_where_nothing_is_known_it_is_left_out(silent: FrozenTrial) -> None:
    assert extrapolated([silent], COMPLETED) == []


def test_without_completed_trials_there_is_nothing_to_go_by() -> None:
    assert extrapolated([trial(0.2)], []) == []
