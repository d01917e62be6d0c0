"""Failed trials, as a sampler sees them."""

from __future__ import annotations

import optuna
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.proposals.failures import as_worst

UP, DOWN = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE


def trial(*values: float, trained: bool = True) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if values else TrialState.FAIL,
        values=values or None,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
        user_attrs={"architecture": {}} if trained else {},
        intermediate_values={1: 0.9},
    )


def test_a_failed_training_shows_as_the_worst_of_each_objective() -> None:
    failed = trial()
    shown = as_worst([trial(0.5, 3.0), failed, trial(0.4, 2.0)], [UP, DOWN])
    assert [t.values for t in shown] == [[0.5, 3.0], [0.4, 3.0], [0.4, 2.0]]
    assert {t.state for t in shown} == {TrialState.COMPLETE}
    assert shown[1].intermediate_values == {}, "nothing was gained from them"
    assert (failed.state, failed.values) == (TrialState.FAIL, None)  # Optuna's own is left alone


def test_what_failed_before_it_trained_or_alone_is_left_as_it_is() -> None:
    rejected = trial(trained=False)
    assert as_worst([trial(0.5), rejected], [UP])[1] is rejected
    alone = trial()
    assert as_worst([alone], [UP]) == [alone]
