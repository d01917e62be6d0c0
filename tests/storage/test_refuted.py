"""What was taken over counts until the study's own trials speak against it."""

from __future__ import annotations

import random

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.display import wording
from search.storage.finalists import choose
from search.storage.refuted import FIRST, BorneOut, borne_out
from search.storage.studies import create_or_resume
from search.storage.summary import summarize
from search.storage.trials import FINALIST, GIVEN, TAKEN
from tests.synthetic_study import config

OLDER = [0.30 + 0.01 * index for index in range(20)]
"""Accuracies after two epochs: one below all of them has a place of 1 in 21."""


def trial(
    accuracy: float, state: TrialState = TrialState.COMPLETE, **attributes: object
) -> FrozenTrial:
    return create_trial(
        state=state,
        values=[accuracy] if state == TrialState.COMPLETE else None,
        intermediate_values={1: accuracy / 2, 2: accuracy},
        user_attrs=attributes,
        system_attrs={"completed_rung_0": accuracy},
    )


def older() -> list[FrozenTrial]:
    return [trial(accuracy, **{TAKEN: f"old:{i}"}) for i, accuracy in enumerate(OLDER)]


def accepted(each: FrozenTrial) -> FrozenTrial:
    each.set_user_attr("verdict", "accepted")
    return each


@pytest.mark.parametrize(
    ("own", "refuted"),
    [
        ([], False),
        ([0.2], False),
        ([0.2, 0.2], True),
        ([0.325, 0.325], False),  # the place of the best is 4 in 21
        ([OLDER[1], OLDER[1]], False),  # 3 in 21: as good as one is no better than it
        ([0.325, 0.1, 0.1], True),
        ([0.335, 0.1, 0.1], False),  # 5 in 21
        ([0.335, 0.1, 0.1, 0.1], True),
        ([0.2, 0.2, 0.6, 0.6], True),
        ([0.46, *[0.1] * (FIRST + 20)], False),  # 18 in 21
    ],
)
def test_the_first_trials_of_its_own_decide(own: list[float], refuted: bool) -> None:
    trials = [*older(), *map(trial, own)]
    kept = borne_out(trials)
    assert kept == (trials[len(OLDER) :] if refuted else trials)


def test_what_is_shown_as_the_best_is_what_is_exported(sqlite: str) -> None:
    study = create_or_resume(config(target=0.9), sqlite)
    for each in older():
        study.add_trial(accepted(each))
    assert summarize(study).best[0].number == choose(study).number == len(OLDER) - 1
    for accuracy in (0.2, 0.25):
        study.add_trial(accepted(trial(accuracy)))
    summary = summarize(study)
    assert summary.best[0].number == choose(study).number == len(OLDER) + 1
    assert wording.road(summary) == "25.00 % so far, 65.00 points to go"
    assert (summary.taken, summary.finished) == (len(OLDER), 2)


def test_older_trials_that_ended_before_that_epoch_are_not_compared() -> None:
    short = trial(0.0, TrialState.PRUNED, **{TAKEN: "old:20"})
    short.intermediate_values = {1: 0.0}
    own = [trial(0.2), trial(0.2)]
    assert borne_out([*older(), short, *own]) == own
    trials = [*older(), *[short] * 40, trial(0.325), trial(0.325)]
    assert borne_out(trials) == trials


def test_only_its_own_that_ended_speak_each_at_its_last_epoch() -> None:
    for state in (TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL):
        own = [trial(0.1), trial(0.1, state)]
        assert borne_out([*older(), *own]) == own
    fell = trial(0.1)
    fell.intermediate_values[1] = 0.9
    own = [trial(0.1), fell]
    assert borne_out([*older(), *own]) == own
    early = trial(0.4)
    early.intermediate_values = {1: 0.18}  # of 0.15 to 0.245 in the older ones: not so bad
    others = [
        trial(0.1, TrialState.RUNNING),
        trial(0.1, **{GIVEN: "mine"}),
        trial(0.1, **{FINALIST: {"trial": 1}}),
        trial(0.1, TrialState.FAIL),
        early,
    ]
    others[3].intermediate_values = {}
    trials = [*older(), trial(0.1), *others]
    assert borne_out(trials) == trials


def test_trials_as_good_as_the_older_ones_hardly_refute_them() -> None:
    rng = random.Random(0)
    refuted = 0
    for _ in range(400):
        taken = [trial(rng.random(), **{TAKEN: f"old:{index}"}) for index in range(40)]
        trials = [*taken, *(trial(rng.random()) for _ in range(FIRST))]
        refuted += len(borne_out(trials)) == FIRST
    assert refuted / 400 <= 1 / 16 + 2 * 0.012  # two standard errors


def test_a_study_that_took_nothing_over_keeps_all() -> None:
    own = [trial(0.1 * index) for index in range(5)]
    assert borne_out(own) == own


def study(pruner: optuna.pruners.BasePruner, own: float) -> optuna.Study:
    made = optuna.create_study(direction="maximize", pruner=pruner)
    made.add_trials([*older(), *[trial(own)] * FIRST])
    return made


def test_a_view_filters_by_state_too() -> None:
    view = BorneOut(study(optuna.pruners.NopPruner(), 0.1))
    assert len(view.get_trials(states=(TrialState.COMPLETE,))) == FIRST
    assert view.get_trials(states=(TrialState.RUNNING,)) == []
    assert view.direction == optuna.study.StudyDirection.MAXIMIZE
