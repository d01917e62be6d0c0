from __future__ import annotations

import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from search.storage.studies import study_storage
from tests.processes import ask, created

SPACE = {
    "kind": CategoricalDistribution(["relu", None, 3, True]),
    "rate": FloatDistribution(1e-5, 1.0, log=True),
    "width": IntDistribution(8, 64, step=8),
}


def _fill(study: optuna.Study) -> None:
    for number, value in enumerate([0.5, math.inf, -math.inf, -0.0]):
        kind = SPACE["kind"].choices[number]
        study.add_trial(
            optuna.create_trial(
                value=value,
                params={"width": 8, "kind": kind, "rate": 0.1 / 3},
                distributions=SPACE,
                user_attrs={"history": [{"epoch": 1, "loss": math.nan}], "é": None},
                system_attrs={"note": {"a": [1]}},
                intermediate_values={3: 0.1, 1: math.nan, 2: math.inf},
            )
        )
    study.add_trial(optuna.create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.5}))
    study.add_trial(optuna.create_trial(state=TrialState.FAIL))
    study.enqueue_trial({"rate": 0.5})
    study.enqueue_trial({"rate": 0.25})
    ask(study).suggest_float("rate", 1e-5, 1.0, log=True)


@pytest.fixture
def study(url: str) -> optuna.Study:
    study = created(url, trials=100)
    _fill(study)
    _fill(created(url, name="other", trials=100))  # whose trials must not come along
    return study


def test_rows_are_what_optuna_reads_by_objects(study: optuna.Study) -> None:
    storage = study_storage(study)
    everything = [trial._trial_id for trial in study.trials]
    for states, known, last in [
        (None, set(), -1),
        (None, {everything[1], everything[2]}, everything[5]),
        (None, set(everything), everything[-1]),
        ((TrialState.COMPLETE, TrialState.WAITING), set(), everything[0]),
        (None, set(), everything[-1]),
    ]:
        ours = storage._get_trials(study._study_id, states, set(known), last)
        optunas = RDBStorage._get_trials(storage, study._study_id, states, set(known), last)
        assert _text(ours) == _text(optunas)
        assert [list(t.params) for t in ours] == [list(t.params) for t in optunas]
    assert len(ours) == 0


def _text(trials: list[FrozenTrial]) -> str:
    """Their content but for the order of attributes and reports; NaN equals nothing but as text."""
    return repr(
        [
            {
                k: sorted(v.items(), key=str) if isinstance(v, dict) else v
                for k, v in vars(t).items()
            }
            for t in trials
        ]
    )


def test_more_ids_than_a_question_holds(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.storage.reading._SOME", 1)
    first, _, third, *_, last = (trial._trial_id for trial in study.trials)
    found = study_storage(study)._get_trials(study._study_id, None, {first, third}, last - 1)
    assert [trial._trial_id for trial in found] == [first, third, last]


def test_a_study_that_is_gone_is_missed(study: optuna.Study) -> None:
    with pytest.raises(KeyError):
        study_storage(study)._get_trials(99, None, set(), -1)
