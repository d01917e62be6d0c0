"""Networks that somebody names: trials beside the search, which neither counts nor hides them."""

from __future__ import annotations

import dataclasses
from typing import Any

import optuna
import pytest
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import TrialState

from search.config.candidate import Candidate
from search.config.files import overridden
from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.networks.architecture import Architecture
from search.proposals.asked import given, recipe_choices
from search.proposals.parameters import distributions
from search.proposals.scratch import Scratch
from search.storage.claims import BudgetSpentError
from search.storage.finalists import standing
from search.storage.given import give, given_candidate
from search.storage.studies import create_or_resume, study_storage
from search.storage.summary import summarize
from search.storage.trials import Attributes, write
from search.targets import read_architecture
from search.workers.supervisor import Ending
from search.workers.worker import work
from tests.conftest import STUDIES
from tests.processes import ask
from tests.synthetic_study import CLASSES, INPUT, build, config, feasible

BASELINE = read_architecture(STUDIES / "baseline.json")


def settings(**study: Any) -> StudyConfig:
    made = config(**{"trials": 2, "target": None, "finalists": 1, **study})
    return overridden(made, ["limits.downsampling=off"])  # the baseline lacks one


def inside(settings: StudyConfig, seed: int = 0) -> Architecture:
    choices = feasible(settings, seed)
    return settings.candidate(choices, input=INPUT, classes=CLASSES).architecture


def give_(study: optuna.Study, settings: StudyConfig, network: Architecture, name: str) -> int:
    candidate, choices = given(network, settings, None)
    return give(study, candidate, name, choices, distributions(settings))


def run(study: optuna.Study, settings: StudyConfig, only: int | None, value: float = 0.9) -> Ending:
    def train(trial: optuna.Trial) -> float:
        candidate = given_candidate(trial) or Candidate(inside(settings), settings.recipe(MIDDLE))
        carried = Attributes(
            architecture=candidate.architecture.to_json(),
            recipe=dataclasses.asdict(candidate.recipe),
            verdict="accepted",
        )
        write(trial, carried)
        if value < 0:
            raise ValueError("no")
        return value

    return work(study, settings, lambda stop: train, only)


MIDDLE = recipe_choices(settings(), None)


@pytest.mark.parametrize("only", [True, False], ids=["alone", "in the search"])
def test_the_budget_does_not_count_it_and_the_leaderboard_does(sqlite: str, only: bool) -> None:
    some = settings(target=0.95)
    study = create_or_resume(some, sqlite)
    assert run(study, some, None, value=0.5).reason == "the budget of 2 trials is spent"
    number = give_(study, some, BASELINE, "baseline.json")
    assert number == 2
    with pytest.raises(BudgetSpentError):
        study_storage(study).create_new_trial(study._study_id)
    ending = run(study, some, number if only else None, value=0.97)
    assert ending.code == 0
    assert ending.reason == ("trial 2: accuracy 97.00 %" if only else "target 0.95 met")
    summary = summarize(study)
    assert (summary.finished, summary.given, summary.compared) == (2, 1, 3)
    assert summary.best[0].number == 2
    assert summary.best[0].given == "baseline.json"
    assert summary.to_json()["trials_left"] == 0
    assert summary.met
    assert study_storage(study).count(study._study_id) == {TrialState.COMPLETE: 2}


def test_a_worker_of_one_trial_runs_no_other(sqlite: str) -> None:
    some = settings()
    study = create_or_resume(some, sqlite)
    study.enqueue_trial({})
    first, second = (give_(study, some, inside(some, n), f"{n}.json") for n in (1, 2))
    assert run(study, some, second).code == 0
    states = [trial.state.name for trial in study.trials]
    assert states == ["WAITING", "WAITING", "COMPLETE"]
    failed = run(study, some, first, value=-1)
    assert (failed.code, failed.reason) == (1, "trial 1 failed: ValueError: no")
    with pytest.raises(ConfigError, match="study demo has no trial 3"):
        run(study, some, 3)


def test_a_network_is_trained_once(sqlite: str) -> None:
    some = settings()
    study = create_or_resume(some, sqlite)
    assert [give_(study, some, BASELINE, "a"), give_(study, some, BASELINE, "b")] == [0, 0]
    run(study, some, 0)
    assert give_(study, some, BASELINE, "c") == 0, "it is there"
    assert give_(study, some, inside(some), "d") == 1
    run(study, some, 1, value=-1)
    assert give_(study, some, inside(some), "e") == 2, "the first failed"
    pruned = {"candidate": given(inside(some, 1), some, None)[0].hash}
    study.add_trial(optuna.create_trial(state=TrialState.PRUNED, user_attrs=pruned))
    assert give_(study, some, inside(some, 1), "f") == 4, "the search gave it up early"


def test_one_network_is_trained_though_the_target_is_met(sqlite: str) -> None:
    some = settings(target=0.4)
    study = create_or_resume(some, sqlite)
    assert run(study, some, None, value=0.5).reason == "target 0.4 met"
    number = give_(study, some, BASELINE, "x")
    assert run(study, some, number).reason == f"trial {number}: accuracy 90.00 %"
    balanced = settings(target=0.4, metric="balanced_accuracy")
    assert run(study, balanced, number).reason == f"trial {number}: balanced accuracy 90.00 %"


def test_samplers_see_what_the_space_expresses_and_keep_their_joint_space(sqlite: str) -> None:
    some = settings(trials=40)
    study = build(some, sqlite, trials=12, running=0)
    known, foreign = inside(some, 90), BASELINE
    for network in (known, foreign):
        run(study, some, give_(study, some, network, "x"))
    study = create_or_resume(some, sqlite)
    current = ask(study)
    scratch: Any = Scratch(study, study.trials[current.number])
    seen = {trial.number for trial in scratch.get_trials()}
    assert seen == {*range(13), current.number}
    joint = IntersectionSearchSpace().calculate(scratch)
    assert joint == distributions(some)


def test_it_may_become_a_finalist(sqlite: str) -> None:
    some = settings(finalists=2, trials=1)
    study = create_or_resume(some, sqlite)
    run(study, some, give_(study, some, BASELINE, "x"))
    assert [each.trial for each in standing(study.trials, some).finalists] == [0]


def test_half_a_batch_is_halved_once(sqlite: str) -> None:
    some = settings()
    study = create_or_resume(some, sqlite)
    candidate, _ = given(BASELINE, some, None)
    give_(study, some, BASELINE, "x")
    study_storage(study).only = 0
    trial = ask(study)
    whole = candidate.recipe.batch_size
    half = dataclasses.asdict(dataclasses.replace(candidate.recipe, batch_size=whole // 2))
    write(trial, Attributes(recipe=half, batch_divisor=2))
    assert given_candidate(trial) == candidate
