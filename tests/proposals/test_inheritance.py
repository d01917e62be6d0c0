"""What a study takes over from an older one, judged by its own rules."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from constraints import violations
from search.config.files import overridden
from search.config.sections import StudyConfig
from search.proposals.inheritance import AGAIN, Inheritance, inherit
from search.proposals.parameters import distributions
from search.proposals.scratch import Taken
from search.storage.finalists import choose, searched
from search.storage.studies import create_or_resume, study_storage
from search.storage.summary import summarize
from search.storage.trials import Attributes, candidate_of
from search.workers.objective import make_pruner
from tests.processes import ask
from tests.synthetic_study import CLASSES, INPUT, build, config, train_finalists

IMAGES = {"shape": [3, 32, 32], "pixels": "0123"}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    """14 trials: 10 completed, 3 pruned, one failed; and one that runs."""
    settings = config()
    study = build(settings, f"sqlite:///{tmp_path_factory.mktemp('old')}/s.db", running=1)
    study.set_user_attr("data", IMAGES)
    train_finalists(study, settings, lost=-1)
    return study


def heir(*changes: str, name: str = "heir", **study: Any) -> StudyConfig:
    return overridden(config(name, **study), changes)


def take(old: optuna.Study, config: StudyConfig, **more: Any) -> Inheritance:
    return inherit(old, config, INPUT, CLASSES, **{"identity": IMAGES, **more})


def test_under_the_same_limits_all_that_ended_is_taken_with_what_was_measured(
    old: optuna.Study,
) -> None:
    found = take(old, heir())
    assert found.left == {"failed": 1, "not finished": 1}
    assert (found.again, found.differs, found.trials) == ([], "", 15)
    for trial in found.taken:
        before = old.trials[int(trial.user_attrs["taken"].removeprefix("demo:"))]
        assert trial.state == before.state
        assert trial.params == before.params
        assert trial.intermediate_values == before.intermediate_values
        assert trial.values == before.values
        assert candidate_of(trial) == candidate_of(before)
        assert "proposals" not in trial.user_attrs, "the new study proposed none of them"
    states = [trial.state for trial in found.taken]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED)) == (10, 3)


def test_other_limits_leave_what_breaks_them(old: optuna.Study) -> None:
    settings = heir("limits.parameters=60_000", "limits.receptive_field=60")
    found = take(old, settings)
    taken = {trial.user_attrs["taken"] for trial in found.taken}
    ended = [t for t in old.trials[:14] if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    legal = {
        f"demo:{trial.number}"
        for trial in ended
        if not violations(candidate_of(trial).architecture, settings.rules)
    }
    assert taken == legal
    assert 0 < len(legal) < len(ended)
    reasons = [reason for reason in found.left if reason.startswith("against the limits (")]
    assert sum(found.left[reason] for reason in reasons) == len(ended) - len(legal)


def test_a_narrower_space_takes_what_it_expresses(old: optuna.Study) -> None:
    settings = heir("space.C1.depth=[1, 2]", "space.C2.width=[24, 32, 40, 48]")
    found = take(old, settings)
    assert 0 < len(found.taken) < 13
    assert found.left["outside the space"] == 13 - len(found.taken)
    for trial in found.taken:
        assert trial.distributions == distributions(settings)
        before = old.trials[int(trial.user_attrs["taken"].removeprefix("demo:"))]
        assert candidate_of(trial).architecture == candidate_of(before).architecture


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        (["training.epochs=8"], "epochs is 16 there, 8 here"),
        (["augmentation.rotate=5"], "augmentation.rotate is 10.0 there, 5.0 here"),
        (["training.precision=float32"], "training.precision is auto there, float32 here"),
        (["study.metric=balanced_accuracy"], "study.metric is accuracy there, balanced"),
        (["training.learning_rate=0.1"], "learning_rate is "),
    ],
)
def test_what_was_trained_otherwise_is_trained_again_the_best_first(
    old: optuna.Study, changes: list[str], differs: str
) -> None:
    found = take(old, heir(*changes))
    assert found.taken == []
    assert found.differs.startswith(differs)
    completed = [t for t in old.trials[:14] if t.state == TrialState.COMPLETE]
    best = sorted(completed, key=lambda trial: -trial.values[0])[:AGAIN]
    named = [{k: v for k, v in t.params.items() if not k.startswith("training")} for t in best]
    assert [{k: v for k, v in c.items() if k in named[0]} for c in found.again] == named
    assert found.left == {"failed": 1, "not finished": 1, "pruned": 3, "not comparable": 10 - AGAIN}


def test_one_candidate_is_trained_again_once(old: optuna.Study, sqlite: str) -> None:
    """Two trials that differ in a learning rate which the new study fixes."""
    study = create_or_resume(config(), sqlite, data=IMAGES)
    for rate, accuracy in ((0.05, 0.8), (0.1, 0.7)):
        study.add_trial(_at_rate(old.trials[0], rate, accuracy))
    found = take(study, heir("training.learning_rate=0.07"))
    assert (len(found.again), found.left) == (1, {"not comparable": 1})


@pytest.mark.parametrize("rates", [(0.05, 0.07), (0.07, 0.05)])
def test_what_is_taken_over_is_not_trained_again(
    rates: tuple[float, float], old: optuna.Study, sqlite: str
) -> None:
    """Two trials that are one candidate here, of which one was trained as it would be."""
    study = create_or_resume(config(), sqlite, data=IMAGES)
    for rate in rates:
        study.add_trial(_at_rate(old.trials[0], rate, 0.8))
    found = take(study, heir("training.learning_rate=0.07"))
    assert ([trial.values for trial in found.taken], found.again) == ([[0.8]], [])


def test_a_launch_that_is_repeated_asks_for_no_other_to_be_trained_again(
    old: optuna.Study,
) -> None:
    settings = heir("training.precision=float32")
    (first,) = take(old, settings).again
    trained = settings.candidate(first, input=INPUT, classes=CLASSES)
    found = take(old, settings, held=[trained.hash])
    assert (found.again, found.left["here already"]) == ([], 1)


def _at_rate(source: FrozenTrial, rate: float, accuracy: float) -> FrozenTrial:
    """The trial as if it had been trained at another learning rate."""
    trial = copy.deepcopy(source)
    trial.params = {**source.params, "training.learning_rate": rate}
    trial.user_attrs["recipe"] = {**source.user_attrs["recipe"], "learning_rate": rate}
    trial.values = [accuracy]
    return trial


def test_other_images_and_unknown_ones_do_not_compare(old: optuna.Study, sqlite: str) -> None:
    other = take(old, heir(), identity={**IMAGES, "pixels": "4567"})
    assert (other.taken, other.differs) == ([], "other pixels")
    newer = take(old, heir(), identity={**IMAGES, "largest class": 0.1})
    assert len(newer.taken) == 13, "what an older version did not keep is no difference"
    unknown = take(build(config(), sqlite, trials=1, running=0), heir())
    assert (unknown.taken, unknown.differs) == ([], "its images are not known")


def one(old: optuna.Study, url: str, history: int, notes: dict[str, Any]) -> optuna.Study:
    """A study of one completed trial, with so many epochs of its history and these notes."""
    study = create_or_resume(config(), url, data=IMAGES)
    trial = copy.deepcopy(old.trials[0])
    trial.user_attrs["history"] = trial.user_attrs["history"][:history]
    trial.system_attrs = notes
    study.add_trial(trial)
    return study


def test_one_that_ended_early_counts_where_it_meets_the_target_here_too(
    old: optuna.Study, sqlite: str
) -> None:
    study = one(old, sqlite, 9, {})
    value = study.trials[0].values[0]
    assert len(take(study, heir(target=value - 0.01)).taken) == 1
    higher = take(study, heir(target=value + 0.01))
    assert (higher.taken, higher.differs) == ([], "it ended at a lower target")
    assert len(higher.again) == 1


def test_successive_halving_goes_on_from_the_rungs_and_samplers_begin(
    old: optuna.Study, sqlite: str
) -> None:
    study = one(old, sqlite, 16, {"completed_rung_0": 0.7, "nsga2:generation": 3})
    (taken,) = take(study, heir()).taken
    assert taken.system_attrs == {"completed_rung_0": 0.7}


def test_several_objectives_are_computed_anew(old: optuna.Study) -> None:
    settings = heir(objectives=["accuracy", "macs"], pruner="none")
    found = take(old, settings)
    assert len(found.taken) == 10
    assert found.left["pruned"] == 3
    for trial in found.taken:
        assert trial.values[1] == trial.user_attrs["macs"]
        assert trial.intermediate_values == {}


def test_costs_to_the_same_target_stay(old: optuna.Study) -> None:
    goals = {"objectives": ["accuracy", "pflop"], "pruner": "none"}
    target = config().study.target
    assert target
    same = take(old, heir(target=target, **goals)).taken
    assert same
    for trial in same:
        assert trial.values[1] == trial.user_attrs.get("pflop_to_target", math.inf)


def test_cost_to_a_lower_target_is_read_off_the_epochs(old: optuna.Study) -> None:
    done = [t for t in searched(old.trials) if t.state == TrialState.COMPLETE]
    target = sorted(max(_accuracies(trial)) for trial in done)[5] - 0.001
    found = take(old, heir(target=target, objectives=["accuracy", "pflop"], pruner="none")).taken
    assert {math.isinf(trial.values[1]) for trial in found} == {False, True}
    for trial in found:
        before = old.trials[int(trial.user_attrs["taken"].removeprefix("demo:"))]
        curve = _accuracies(before)
        if max(curve) < target:
            assert trial.values == [before.values[0], math.inf]
            assert "pflop_to_target" not in trial.user_attrs
            continue
        ends = next(n for n, accuracy in enumerate(curve, 1) if accuracy >= target)
        images = before.user_attrs["history"][ends - 1]["images"]
        cost = candidate_of(before).pflop(ends, images)
        assert trial.values == [curve[ends - 1], cost]
        carried = trial.user_attrs
        assert carried["pflop"] == carried["pflop_to_target"] == cost
        assert _accuracies(trial) == curve[:ends]
        assert carried["seconds"] == pytest.approx(sum(e["seconds"] for e in carried["history"]))


def test_cost_of_a_trial_without_its_epochs_does_not_compare(
    old: optuna.Study, sqlite: str
) -> None:
    study = create_or_resume(config(), sqlite, data=IMAGES)
    trial = copy.deepcopy(old.trials[0])
    del trial.user_attrs["history"]
    study.add_trial(trial)
    found = take(study, heir(objectives=["accuracy", "pflop"], pruner="none"))
    assert (found.taken, found.differs) == ([], "its epochs are not known")


def _accuracies(trial: FrozenTrial) -> list[float]:
    return [epoch["accuracy"] for epoch in trial.user_attrs["history"]]


def adopted(old: optuna.Study, settings: StudyConfig, folder: Path) -> optuna.Study:
    study = create_or_resume(settings, f"sqlite:///{folder}/heir.db", data=IMAGES)
    for trial in take(old, settings).taken:
        study.add_trial(trial)
    return study


def test_the_new_study_learns_from_them_and_its_budget_does_not_count_them(
    old: optuna.Study, tmp_path: Path
) -> None:
    settings = heir(trials=1, target=None)
    study = adopted(old, settings, tmp_path)
    summary = summarize(study)
    assert (summary.finished, summary.taken, summary.compared) == (0, 13, 13)
    assert summary.proposed == 0
    assert summary.best[0].taken
    assert study_storage(study).count(study._study_id) == {}
    assert IntersectionSearchSpace().calculate(study) == distributions(settings)
    again = take(old, settings, held=[str(t.user_attrs["candidate"]) for t in study.trials])
    assert (again.taken, again.left["here already"]) == ([], 13)
    trial = ask(study)
    taken = Taken()
    taken.update(study, study.trials[trial.number])
    assert all(taken.holds(t.user_attrs["candidate"]) for t in study.trials[:13])
    assert choose(study).number == summary.best[0].number
    assert Attributes.of(choose(study)).taken == summary.best[0].taken


def test_a_pruner_compares_with_them(old: optuna.Study, tmp_path: Path) -> None:
    settings = heir(pruner="median")
    study = adopted(old, settings, tmp_path)
    study.pruner = make_pruner(settings)
    trial = ask(study)
    for epoch in range(1, 8):
        trial.report(0.1, epoch)
    assert trial.should_prune()
