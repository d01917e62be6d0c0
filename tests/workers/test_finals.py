"""Finalists: who they are, how often they are trained, and who wins."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.analysis.tracing.loading import read_source
from search.config.candidate import Candidate
from search.config.files import overridden
from search.config.sections import StudyConfig
from search.errors import MachineError
from search.proposals.asked import recipe_choices
from search.storage.finalists import choose, fresh_candidate, searched, standing, template
from search.storage.given import give, given_candidate
from search.storage.studies import create_or_resume, load_study, study_config, study_storage
from search.storage.summary import summarize
from search.storage.trials import Attributes, candidate_of, is_finalist, write
from search.training.modules import NONE, Modules, read
from search.training.training import DivergedError
from search.workers.guarded import Guarded
from search.workers.watch import Watch
from search.workers.worker import work
from tests.modules import written
from tests.processes import ask, code, start, wait_until, worker
from tests.synthetic_study import CLASSES, INPUT, build, config, feasible

NOISE = (0.001, -0.001, 0.0005, -0.0005)
TRUE = (0.80, 0.79, 0.83, 0.82, 0.70)
ONCE = (0.80, 0.79, 0.83, 0.84, 0.70)  # trial 3 was lucky


def _trainer(settings: StudyConfig, lose: int | None, delay: float = 0.0) -> Any:
    def train(trial: optuna.Trial) -> float:
        again = fresh_candidate(trial, settings)
        choices = feasible(settings, trial.number)
        candidate = again or settings.candidate(choices, input=INPUT, classes=CLASSES)
        write(
            trial,
            Attributes(
                architecture=candidate.architecture.to_json(),
                recipe=dataclasses.asdict(candidate.recipe),
                verdict="accepted",
            ),
        )
        if again is None:
            return ONCE[trial.number]
        time.sleep(delay)
        source, repeat = (trial.user_attrs["finalist"][key] for key in ("trial", "repeat"))
        if source == lose:
            raise DivergedError("the loss is nan")
        return TRUE[source] + NOISE[repeat % 4]

    return train


def _work(study: optuna.Study, settings: StudyConfig, lose: int | None = None) -> Any:
    return work(study, settings, lambda stop: _trainer(settings, lose))


def _settings(**section: Any) -> StudyConfig:
    return config(**{"trials": 5, "target": None, **section})


def test_the_best_are_trained_again_until_one_is_certain(url: str) -> None:
    settings = _settings()
    study = create_or_resume(settings, url)
    ending = _work(study, settings)
    assert ending.code == 0
    assert "; trial 2 is the best of the finalists (3) with " in ending.reason
    again = [trial for trial in study.trials if is_finalist(trial)]
    assert [trial.number for trial in searched(study.trials)] == [0, 1, 2, 3, 4]
    assert {trial.user_attrs["finalist"]["trial"] for trial in again} == {0, 2, 3}
    assert 6 <= len(again) <= 12
    now = standing(study.trials, settings)
    assert now.leader is not None
    assert now.leader.trial == 2
    assert (now.leader.probability or 0.0) >= 0.95
    assert choose(study).number == 2 != study.best_trial.number
    # Seeds that no trial had, and the same network.
    for trial in again:
        source = study.trials[trial.user_attrs["finalist"]["trial"]]
        assert candidate_of(trial).architecture == candidate_of(source).architecture
    seeds = [candidate_of(trial).recipe.repeat for trial in again if _source(trial) == 2]
    assert 0 not in seeds
    assert len(set(seeds)) == len(seeds)


def _source(trial: optuna.trial.FrozenTrial) -> int:
    return int(trial.user_attrs["finalist"]["trial"])


def test_the_search_neither_counts_nor_sees_them(sqlite: str) -> None:
    settings = _settings(target=0.845)
    study = create_or_resume(settings, sqlite)
    assert _work(study, settings).code == 1  # though a finalist's training may reach it
    counts = study_storage(study).count(study._study_id)
    assert counts == {TrialState.COMPLETE: 5}
    assert study_storage(study).best_value(study._study_id) == 0.84
    summary = summarize(study)
    assert (summary.finished, len(summary.trials)) == (5, 5)
    document = summary.to_json()
    assert document["finalists"][0]["trial"] == 2
    assert document["best"]["number"] == 3
    trained = len(study.trials)
    assert "finalists" in _work(study, settings).reason  # again: it is decided
    assert len(study.trials) == trained


def test_a_target_that_is_met_ends_the_search_and_not_its_finalists(sqlite: str) -> None:
    settings = _settings(target=0.835)
    study = create_or_resume(settings, sqlite)
    ending = _work(study, settings)
    assert ending.code == 0
    best = "target 0.835 met; trial 2 is the best of the finalists (3) with "
    assert ending.reason.startswith(best)
    assert len(searched(study.trials)) == 4, "trial 3 met it"


def test_the_last_training_of_a_worker_that_died_is_waited_for_and_taken_over(sqlite: str) -> None:
    settings = _settings(finalist_trainings=6)
    study, other = create_or_resume(settings, sqlite), load_study("demo", sqlite)
    study_storage(other).finals, train = True, _trainer(settings, None)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()

    def lose(trial: optuna.Trial) -> float:
        worker = trial.user_attrs["worker"]
        if trial.user_attrs.get("finalist", {}).get("index") == 5 and not worker["earlier"]:
            assert study_storage(other).requeue(trial._trial_id, worker)
            theirs = ask(other)
            assert theirs.number == trial.number
            theirs.set_user_attr("worker", {**theirs.user_attrs["worker"], "pid": dead.pid})
        return float(train(trial))

    assert work(study, settings, lambda stop: lose).code == 0
    again = [trial for trial in study.trials if is_finalist(trial)]
    assert [trial.state.name for trial in again] == ["COMPLETE"] * 6
    assert again[5].user_attrs["deaths"] == 1


def test_a_finalist_that_diverges_is_lost(sqlite: str) -> None:
    settings = _settings()
    study = create_or_resume(settings, sqlite)
    assert "trial 3 is the best" in _work(study, settings, lose=2).reason
    lost = {each.trial: each.lost for each in standing(study.trials, settings).finalists}
    assert lost == {3: None, 2: "DivergedError: the loss is nan", 0: None}
    assert choose(study).number == 3


def test_a_finalist_that_learns_nothing_is_lost_and_no_noise_of_the_others(sqlite: str) -> None:
    settings = _settings()
    study = build(settings, sqlite, trials=9, running=0)
    first = standing(study.trials, settings).next
    assert first is not None
    while (now := standing(study.trials, settings)).next is not None:
        trial = template(study.trials, now)
        measured = TRUE[0] + NOISE[now.begun % 4]
        trial.state, trial.value = TrialState.COMPLETE, 0.104 if now.next == first else measured
        trial.datetime_start = trial.datetime_complete = datetime.now()
        study.add_trial(trial)
    lost = {each.trial: each.lost for each in now.finalists}
    assert lost.pop(first) == "its training learned nothing"
    assert set(lost.values()) == {None}
    assert now.leader is not None
    assert (now.leader.error or 1.0) < 0.01


def test_one_that_alone_is_left_and_all_lost(sqlite: str) -> None:
    settings = _settings(trials=1)
    study = create_or_resume(settings, sqlite)
    assert _work(study, settings).reason == "the budget of 1 trial is spent"
    assert len(study.trials) == 3
    leader = standing(study.trials, settings).leader
    assert leader is not None
    assert leader.probability == 1.0
    other = create_or_resume(lonely := _settings(trials=1, name="other"), sqlite)
    assert "all finalists (1) are lost" in _work(other, lonely, lose=0).reason
    assert choose(other).number == 0


@pytest.mark.parametrize(
    "section",
    [{"finalists": 1}, {"objectives": ["accuracy", "macs"], "pruner": "none"}],
    ids=["one", "several objectives"],
)
def test_without_finalists_the_search_is_all(sqlite: str, section: dict[str, Any]) -> None:
    settings = _settings(**section)
    study = create_or_resume(settings, sqlite)
    train = _trainer(settings, None)
    several = len(settings.study.objectives) > 1

    def make(stop: Callable[[], str | None]) -> Any:
        return lambda trial: (train(trial), 1.0) if several else train(trial)

    assert work(study, settings, make).reason == "the budget of 5 trials is spent"
    assert len(study.trials) == 5
    assert choose(study).number == 3


def test_seeds_of_one_training_are_one_finalist(sqlite: str) -> None:
    settings = _settings(repeats=2)
    study = create_or_resume(settings, sqlite)
    candidate = settings.candidate(feasible(settings, 0), input=INPUT, classes=CLASSES)
    for repeat, accuracy in ((0, 0.8), (1, 0.9)):
        recipe = dataclasses.asdict(dataclasses.replace(candidate.recipe, repeat=repeat))
        carried = Attributes(
            architecture=candidate.architecture.to_json(), recipe=recipe, verdict="accepted"
        )
        study.add_trial(optuna.create_trial(value=accuracy, user_attrs=dict(carried.items())))
    assert [each.trial for each in standing(study.trials, settings).finalists] == [1]


def slow(runs: Path) -> Any:
    """Half a second a training of a finalist; those begun are noted in `runs`/begun."""

    def make(stop: Callable[[], str | None]) -> Any:
        def train(trial: optuna.Trial) -> float:
            if is_finalist(trial):
                with (runs / "begun").open("a") as file:
                    file.write(f"{trial.number} {os.getpid()}\n")
            return float(_trainer(study_config(trial.study), None, delay=0.5)(trial))

        return train

    return make


def test_workers_share_them_and_a_killed_one_loses_none(url: str, tmp_path: Path) -> None:
    settings = _settings(finalist_trainings=6)
    create_or_resume(settings, url)
    begun = tmp_path / "begun"
    processes = [start(worker, url, tmp_path, slow, name="demo") for _ in range(2)]
    wait_until(begun.exists)
    wait_until(begun.read_text)
    os.kill(int(begun.read_text().split()[1]), signal.SIGKILL)
    assert sorted(code(process) for process in processes) == [-signal.SIGKILL, 0]
    assert code(start(worker, url, tmp_path, slow, name="demo")) == 0
    again = [trial for trial in load_study("demo", url).trials if is_finalist(trial)]
    assert [trial.state for trial in again] == [TrialState.COMPLETE] * 6
    assert sorted((_source(t), t.user_attrs["finalist"]["repeat"]) for t in again) == [
        (source, repeat) for source in (0, 2, 3) for repeat in (0, 1)
    ]
    numbers = [int(line.split()[0]) for line in begun.read_text().splitlines()]
    assert len(numbers) == 7  # the one that was killed began twice


def test_what_is_code_waits_for_who_is_told_to_run_it(sqlite: str, tmp_path: Path) -> None:
    rules = ["limits.downsampling=1", "limits.receptive_field=16"]
    settings = overridden(_settings(trials=2, finalists=2), rules)
    study = create_or_resume(settings, sqlite)
    target = f"{written(tmp_path)}:colored"
    recipe = settings.recipe(recipe_choices(settings, None))
    network = read(read_source(target), INPUT, CLASSES, recipe)
    give(study, Candidate(network, recipe), target, {}, {})

    def train(trial: optuna.Trial) -> float:
        given = fresh_candidate(trial, settings) or given_candidate(trial)
        choices = feasible(_settings(), trial.number)
        candidate = given or settings.candidate(choices, input=INPUT, classes=CLASSES)
        carried = Attributes(
            architecture=candidate.architecture.to_json(),
            recipe=dataclasses.asdict(candidate.recipe),
            verdict="accepted",
        )
        write(trial, carried)
        noise = NOISE[candidate.recipe.repeat % 4]
        return noise + (0.9 if candidate.architecture == network else 0.7)

    def run(only: int | None, *modules: str) -> Any:
        return work(study, settings, lambda _: train, only, modules=Modules(modules))

    for only in (0, None):  # nobody is held up by it, but in the end
        if only is None:
            run(0, target)
        with pytest.raises(MachineError, match=f"only where it is named: --module {target}"):
            run(only)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 3 + ["WAITING"], "whoever is told to may train it"
    assert Attributes.of(study.trials[3]).module == network.key
    assert "trial 0 is the best of the finalists" in run(None, target).reason
    storage, watch = study_storage(study), Watch(study, settings)
    Guarded(train, watch, storage, (), NONE).require_code(study.trials)  # none waits any more


def test_a_search_passes_over_waiting_code(sqlite: str, tmp_path: Path) -> None:
    settings = _settings(trials=4, finalists=1)
    study = create_or_resume(settings, sqlite)
    carried = Attributes(architecture={}, recipe={}, given="mine.py:network", module="network:00")
    waiting = optuna.trial.create_trial(state=TrialState.WAITING, user_attrs=dict(carried.items()))
    study.add_trial(waiting)
    assert _work(study, settings).reason == "the budget of 4 trials is spent"
    assert study.trials[0].state == TrialState.WAITING
