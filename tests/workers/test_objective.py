from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState, create_trial

from search.config.files import overridden
from search.config.sections import StudyConfig
from search.data.datasets import Dataset
from search.display.dashboard.annotation import annotate
from search.networks.architecture import Architecture
from search.proposals.asked import given
from search.proposals.parameters import RejectedError, distributions
from search.proposals.sampler import make_sampler
from search.storage.checkpoints import artifact_store, checkpoint_path, load_checkpoint
from search.storage.claims import ClaimLostError
from search.storage.finalists import standing, template
from search.storage.given import give
from search.storage.studies import create_or_resume, load_study, study_storage
from search.storage.trials import FINALIST, architecture_of, candidate_of
from search.training.trainer import Trainer
from search.workers.objective import Finished, Interrupted, Objective, make_pruner
from tests.processes import ask

QUICK = (
    "training.epochs=2",
    "augmentation.epochs=2",
    "study.target=1.0",
    "space.C2.width=16",
    "space.C3.width=24",
    "space.C4.width=32",
)
NARROW = [f"space.C{number}.width=8" for number in range(1, 5)]


@pytest.fixture
def config(quickstart: StudyConfig) -> StudyConfig:
    return overridden(quickstart, QUICK)


def _study(config: StudyConfig, digits: Dataset, folder: Path) -> optuna.Study:
    study = create_or_resume(config, f"sqlite:///{folder}/s.db")
    study.sampler = make_sampler(config, digits.input, len(digits.classes))
    study.pruner = make_pruner(config)
    return study


def _objective(config: StudyConfig, digits: Dataset, folder: Path, **more: object) -> Objective:
    # Beside the folders of the tests, which share the augmented epochs.
    trainer = Trainer(config, digits, torch.device("cpu"), cache=folder.parent / "augmented")
    return Objective(config, trainer, runs=folder / "runs", **more)


def test_a_trial_carries_what_people_ask(
    config: StudyConfig, digits: Dataset, tmp_path: Path
) -> None:
    study = _study(config, digits, tmp_path)
    finished: list[Finished] = []
    study.optimize(_objective(config, digits, tmp_path, finished=finished.append), n_trials=1)
    trial = study.trials[0]
    facts = trial.user_attrs
    assert facts["verdict"] == "accepted"
    assert facts["receptive_field"] > 44
    assert facts["parameters"] < 60_000
    images = facts["history"][-1]["images"]
    assert facts["pflop"] == pytest.approx(6 * facts["macs"] * images / 1e15)
    assert list(trial.intermediate_values) == [1, 2]
    assert trial.value == trial.intermediate_values[2] == facts["history"][-1]["accuracy"]
    assert "pflop_to_target" not in facts
    architecture = Architecture.from_json(facts["architecture"])
    assert architecture == finished[0].candidate.architecture
    weights = load_checkpoint(checkpoint_path(tmp_path / "runs", trial))
    assert weights is not None
    finished[0].training.evaluated.load_state_dict(weights["network"])


def test_a_long_epoch_is_noted_and_a_short_one_is_not(
    config: StudyConfig, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _study(config, digits, tmp_path)
    for interval in (0.0, 1e9):
        monkeypatch.setattr("search.workers.objective.MOMENT_INTERVAL", interval)
        study.optimize(_objective(config, digits, tmp_path), n_trials=1)
    noted, quiet = (trial.user_attrs["moment"] for trial in study.trials)
    assert (noted["epoch"], noted["phase"], noted["done"]) == (2, "evaluating", 1.0)
    assert quiet == {"epoch": 1, "phase": "augmenting", "done": 0.0, "images_per_second": None}


def test_a_trial_ends_when_the_target_is_met(
    config: StudyConfig, digits: Dataset, tmp_path: Path
) -> None:
    config = overridden(config, ["study.target=0.05"])
    study = _study(config, digits, tmp_path)
    study.optimize(_objective(config, digits, tmp_path), n_trials=1)
    assert list(study.trials[0].intermediate_values) == [1]
    assert study.trials[0].user_attrs["pflop_to_target"] > 0


def _epochs(study: optuna.Study) -> list[tuple[str, int, int]]:
    """State, epochs and reports of each trial."""
    return [
        (trial.state.name, len(trial.user_attrs["history"]), len(trial.intermediate_values))
        for trial in study.trials
    ]


def test_a_pruner_ends_what_the_search_proposes_before_its_last_epoch_and_nothing_else(
    config: StudyConfig, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.workers.objective.CHECKPOINT_INTERVAL", 0.0)
    config = overridden(config, NARROW)
    study, objective = _study(config, digits, tmp_path), _objective(config, digits, tmp_path)
    for epochs in (0, 2):  # before the pruner, for which no accuracy is enough, may end a trial
        study.pruner = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=epochs)
        study.optimize(objective, n_trials=1)
    study.pruner = optuna.pruners.ThresholdPruner(lower=2.0)
    named, choices = given(architecture_of(study.trials[0]), config, None)
    give(study, named, "mine.json", choices, distributions(config))
    study.optimize(objective, n_trials=1)
    assert _epochs(study) == [("PRUNED", 1, 1), ("COMPLETE", 2, 2), ("COMPLETE", 2, 2)]
    kept = {path.name[:12] for path in (tmp_path / "runs").glob("*.checkpoint")}
    assert kept == {"trial-000001", "trial-000002"}


def test_a_finalist_is_measured_at_its_end_whatever_pruner_and_target_say(
    config: StudyConfig, digits: Dataset, tmp_path: Path
) -> None:
    config = overridden(config, [*NARROW, "study.target=0.05"])
    study, objective = _study(config, digits, tmp_path), _objective(config, digits, tmp_path)
    study.optimize(objective, n_trials=1)
    study.pruner = optuna.pruners.ThresholdPruner(lower=2.0)
    study_storage(study).finals = True
    study.add_trial(template(study.trials, standing(study.trials, config)))
    study.optimize(objective, n_trials=1)
    assert _epochs(study) == [("COMPLETE", 1, 1), ("COMPLETE", 2, 0)]
    first, again = (candidate_of(trial) for trial in study.trials)
    assert again.architecture == first.architecture
    assert (first.recipe.repeat, again.recipe.repeat) == (0, 1)


def test_a_picture_that_fails_costs_no_trial(
    config: StudyConfig, digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def draw(_: Finished) -> None:
        raise OSError("no ink")

    study = _study(config, digits, tmp_path)
    study.optimize(_objective(config, digits, tmp_path, finished=draw), n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.COMPLETE
    assert "trial 0 has no pictures: no ink" in caplog.text


def test_an_interrupted_trial_leaves_a_checkpoint_to_go_on_from(
    config: StudyConfig, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.workers.objective.CHECKPOINT_INTERVAL", 0.0)
    study = _study(config, digits, tmp_path)
    steps_of_an_epoch = len(digits.train) // 64
    asked = 0

    def stop() -> str | None:
        nonlocal asked
        asked += 1
        return "enough" if asked > steps_of_an_epoch + 3 else None

    with pytest.raises(Interrupted, match="enough"):
        study.optimize(_objective(config, digits, tmp_path, stop=stop), n_trials=1)
    state = load_checkpoint(checkpoint_path(tmp_path / "runs", study.trials[0]))
    assert state is not None
    assert [record["epoch"] for record in state["history"]] == [1]
    assert list(study.trials[0].intermediate_values) == [1]


def test_a_worker_that_dies_between_the_last_epoch_and_the_report_repeats_nothing(
    config: StudyConfig, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, store = _study(config, digits, tmp_path), artifact_store(tmp_path / "runs")
    finished: list[Finished] = []

    def annotated(found: Finished) -> None:
        finished.append(found)
        annotate(found, config, digits, store)

    objective = _objective(config, digits, tmp_path, finished=annotated)
    trial = ask(study)
    accuracy = objective(trial)
    kept = get_all_artifact_meta(study.trials[0], storage=study_storage(study))
    study_storage(study).requeue(trial._trial_id, trial.user_attrs["worker"])
    with study_storage(study).engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM trial_intermediate_values WHERE step = 2")
    monkeypatch.delattr("search.training.training.Training.run_epoch")
    again = ask(study)
    assert objective(again) == accuracy
    study.tell(again, accuracy)
    assert get_all_artifact_meta(study.trials[0], storage=study_storage(study)) == kept
    assert {path.name for path in (tmp_path / "runs" / "artifacts").iterdir()} == {
        each.artifact_id for each in kept
    }
    assert study.trials[0].intermediate_values[2] == accuracy
    first, second = finished
    assert np.array_equal(first.evaluation.logits, second.evaluation.logits)
    assert study.trials[0].user_attrs["history"] == [vars(r) for r in first.training.history]
    assert len(list((tmp_path / "runs").glob("*.checkpoint"))) == 1


def test_a_trial_whose_last_epoch_meets_a_target_lowered_since_ends_with_it(
    config: StudyConfig, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.workers.objective.CHECKPOINT_INTERVAL", 0.0)
    study = _study(config, digits, tmp_path)
    trial = ask(study)

    def stop() -> str | None:
        return "enough" if study.trials[0].intermediate_values else None

    with pytest.raises(Interrupted):
        _objective(config, digits, tmp_path, stop=stop)(trial)
    study_storage(study).requeue(trial._trial_id, trial.user_attrs["worker"])
    finished: list[Finished] = []
    lower = overridden(config, ["study.target=0.01"])
    again = ask(study)
    accuracy = _objective(lower, digits, tmp_path, finished=finished.append)(again)
    assert accuracy == study.trials[0].intermediate_values[1]
    assert finished[0].evaluation.accuracy == accuracy
    kept = load_checkpoint(checkpoint_path(tmp_path / "runs", study.trials[0]))
    assert kept is not None
    measured = finished[0].training.evaluated.state_dict()
    assert all(torch.equal(kept["network"][key], tensor) for key, tensor in measured.items())


def test_a_trial_that_ended_at_a_target_raised_since_is_trained_as_if_it_had_not(
    config: StudyConfig, digits: Dataset, tmp_path: Path
) -> None:
    study = _study(config, digits, tmp_path)
    trial = ask(study)
    _objective(overridden(config, ["study.target=0.01"]), digits, tmp_path)(trial)
    assert list(trial.study.trials[0].intermediate_values) == [1]
    study_storage(study).requeue(trial._trial_id, trial.user_attrs["worker"])
    _objective(config, digits, tmp_path)(ask(study))
    (tmp_path / "straight").mkdir()
    straight = _study(config, digits, tmp_path / "straight")
    _objective(config, digits, tmp_path / "straight")(ask(straight))
    losses = [
        [record["train_loss"] for record in each.trials[0].user_attrs["history"]]
        for each in (study, straight)
    ]
    assert losses[0] == losses[1]


def test_who_lost_a_trial_attaches_no_picture_to_it(
    config: StudyConfig, digits: Dataset, tmp_path: Path
) -> None:
    study, store = _study(config, digits, tmp_path), artifact_store(tmp_path / "runs")

    def late(found: Finished) -> None:
        worker = found.trial.user_attrs["worker"]
        study_storage(load_study("quickstart", f"sqlite:///{tmp_path}/s.db")).requeue(
            found.trial._trial_id, worker
        )
        annotate(found, config, digits, store)

    with pytest.raises(ClaimLostError, match="another worker has taken trial 0 over"):
        _objective(config, digits, tmp_path, finished=late)(ask(study))
    assert study.trials[0].state == TrialState.WAITING
    assert not get_all_artifact_meta(study.trials[0], storage=study_storage(study))
    assert not [*(tmp_path / "runs" / "artifacts").iterdir()]


def test_a_queued_candidate_that_breaks_a_rule_is_never_trained(
    config: StudyConfig, digits: Dataset, tmp_path: Path
) -> None:
    config = overridden(config, ["limits.parameters=100"])
    study = _study(config, digits, tmp_path)
    study.enqueue_trial({name: _any(domain) for name, domain in config.parameters.items()})
    with pytest.raises(RejectedError, match="parameters"):
        study.optimize(_objective(config, digits, tmp_path), n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.FAIL
    assert not (tmp_path / "augmented").exists()


def _any(domain: object) -> object:
    return domain.values[0] if hasattr(domain, "values") else domain.low


def test_several_goals_give_several_values(
    config: StudyConfig, digits: Dataset, tmp_path: Path
) -> None:
    config = overridden(config, ['study.objectives=["accuracy", "macs", "parameters"]'])
    study = _study(config, digits, tmp_path)
    study.optimize(_objective(config, digits, tmp_path), n_trials=1)
    facts = study.trials[0].user_attrs
    assert study.trials[0].values[1:] == [facts["macs"], facts["parameters"]]
    assert study.best_trials == study.trials


def test_the_cost_to_the_target_is_an_objective_that_only_those_that_reach_it_have(
    config: StudyConfig, digits: Dataset, tmp_path: Path
) -> None:
    costs = []
    for target in (0.05, 1.0):
        goals = ['study.objectives=["accuracy", "pflop"]', f"study.target={target}"]
        settings = overridden(config, [*goals, f"study.name=to-{target}"])
        study = _study(settings, digits, tmp_path)
        study.optimize(_objective(settings, digits, tmp_path), n_trials=1)
        (trial,) = study.trials
        assert trial.values[0] == trial.user_attrs["history"][-1]["accuracy"]
        costs.append(trial.values[1])
    assert 0 < costs[0] < trial.user_attrs["pflop"]
    assert costs[1] == math.inf


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("none", optuna.pruners.NopPruner),
        ("median", optuna.pruners.MedianPruner),
        ("asha", optuna.pruners.SuccessiveHalvingPruner),
        ("hyperband", optuna.pruners.HyperbandPruner),
    ],
)
def test_the_pruner_is_the_one_that_is_named(name: str, kind: type, config: StudyConfig) -> None:
    assert isinstance(make_pruner(overridden(config, [f"study.pruner={name}"])), kind)


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
def test_every_pruner_ends_a_hopeless_trial(name: str, config: StudyConfig) -> None:
    """Eight reports of good trials, then one that stays at chance."""
    config = overridden(config, [f"study.pruner={name}", "training.epochs=12"])
    study = optuna.create_study(direction="maximize", pruner=make_pruner(config))
    pruned = []
    for accuracy in (*[0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97], 0.1):
        trial = study.ask()
        for epoch in range(1, 13):
            trial.report(accuracy, epoch)
            if trial.should_prune():
                pruned.append((accuracy, epoch))
                break
        else:
            study.tell(trial, accuracy)
            continue
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    assert 0.1 in [accuracy for accuracy, _ in pruned]


@pytest.mark.parametrize(("long", "pruned"), [(4, False), (5, True)])
@pytest.mark.parametrize("other", ["finalist", "short"])
def test_a_median_is_of_five_trials_that_reached_the_epoch(
    other: str, long: int, pruned: bool, config: StudyConfig
) -> None:
    """Neither trainings of finalists, which report nothing, nor trials of fewer epochs count."""
    searched = overridden(config, ["training.epochs=[4, 10]", "study.pruner=median"])
    study = optuna.create_study(direction="maximize", pruner=make_pruner(searched))
    for index in range(long):
        reports = dict.fromkeys(range(1, 11), 0.8)
        study.add_trial(create_trial(value=0.8, intermediate_values=reports))
        again = {FINALIST: {"trial": 0, "repeat": index, "index": index}}
        if other == "finalist":
            study.add_trial(create_trial(value=0.8, user_attrs=again))
        else:
            few = dict.fromkeys(range(1, 5), 0.8)
            study.add_trial(create_trial(value=0.8, intermediate_values=few))
    asked = study.ask()
    for epoch in range(1, 6):
        asked.report(0.5, epoch)
    assert asked.should_prune() == pruned
