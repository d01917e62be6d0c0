"""Who wins where nothing was trained again; `tests/workers/test_finals.py` trains finalists."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.errors import ConfigError
from search.storage.finalists import choose

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def study_of(*trials: tuple[TrialState, float | None]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    for state, value in trials:
        attributes = {"verdict": "accepted"}
        study.add_trial(create_trial(state=state, value=value, user_attrs=attributes))
    return study


def test_the_winner_is_the_most_accurate_completed_trial_and_of_two_the_earlier() -> None:
    study = study_of((COMPLETE, 0.1), (COMPLETE, 0.7), (PRUNED, None), (COMPLETE, 0.7))
    assert choose(study).number == 1
    assert choose(study, 0).number == 0


@pytest.mark.parametrize(
    ("trials", "number", "message"),
    [
        ((), None, "no trial has completed yet"),
        (((PRUNED, None), (FAIL, None)), None, "no trial has completed yet"),
        (((PRUNED, None), (COMPLETE, 0.5)), 0, "trial 0 is pruned"),
        (((COMPLETE, 0.5),), 7, "trial 7 does not exist"),
    ],
)
def test_what_cannot_be_exported_is_said(
    trials: tuple[tuple[TrialState, float | None], ...], number: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(study_of(*trials), number)
