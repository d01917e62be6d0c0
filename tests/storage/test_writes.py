from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from search.errors import MachineError
from search.storage.studies import load_study, study_storage
from tests.processes import ask, created


def test_what_is_told_is_on_the_disk_and_the_rest_with_it(sqlite: str) -> None:
    study = created(sqlite)
    trial, seen = ask(study), list[str]()

    def see(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "synchronous" in statement:
            seen.append(statement.split()[-1])

    sa.event.listen(study_storage(study).engine, "before_cursor_execute", see)
    trial.suggest_float("x", 0, 1)
    assert set(seen) == {"NORMAL"}
    seen.clear()
    trial.report(0.5, 1)
    assert set(seen) == {"NORMAL"}
    seen.clear()
    with study_storage(study).together() as writes:  # as beside a checkpoint
        trial.report(0.6, 2)
        writes.durable = True
    assert set(seen) == {"FULL"}
    seen.clear()
    study.set_user_attr("config", {})
    assert set(seen) == {"FULL"}
    trial.report(0.7, 3)
    seen.clear()
    study.tell(trial, 0.5)
    assert seen[-1] == "FULL"


def test_writes_together_are_one_transaction_of_a_trial(url: str) -> None:
    study = created(url)
    storage, trial, seen = study_storage(study), ask(study), list[str]()

    def see(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement.split()[0])

    sa.event.listen(storage.engine, "before_cursor_execute", see)
    sa.event.listen(storage.engine, "commit", lambda connection: seen.append("COMMIT"))
    with storage.together():
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("note", "first")
        trial.set_user_attr("note", "second")
        trial.report(0.5, 1)
        study._storage.set_study_system_attr(study._study_id, "plot", [1])
        assert "INSERT" not in seen
        seen.clear()
    assert seen.count("INSERT") >= 4
    assert seen.count("COMMIT") == 2  # the trial's, then the study's
    kept = load_study(study.study_name, url).get_trials()[trial.number]
    assert kept.params == trial.params
    assert kept.user_attrs["note"] == "second"
    assert kept.intermediate_values == {1: 0.5}
    assert storage.get_study_system_attrs(study._study_id)["plot"] == [1]


def test_eight_workers_that_add_one_attribute_of_a_study_lose_nothing_of_their_trials(
    url: str,
) -> None:
    study = created(url, trials=8)
    trials = [ask(load_study(study.study_name, url)) for _ in range(8)]
    barrier = Barrier(len(trials))

    def write(trial: optuna.Trial, key: str) -> None:
        storage = study_storage(trial.study)
        barrier.wait()
        with storage.together():
            trial.set_user_attr(key, trial.number)
            storage.set_study_system_attr(study._study_id, key, "same")

    with ThreadPoolExecutor(len(trials)) as pool:
        for key in ("a", "b", "c"):
            list(pool.map(write, trials, [key] * len(trials)))
    for trial in study.trials:
        assert trial.user_attrs == dict.fromkeys(("a", "b", "c"), trial.number) | trial.user_attrs
    attributes = study_storage(study).get_study_system_attrs(study._study_id)
    assert attributes == attributes | dict.fromkeys(("a", "b", "c"), "same")


def test_what_was_written_before_an_error_is_kept(sqlite: str) -> None:
    study = created(sqlite)
    trial = ask(study)
    with suppress(ZeroDivisionError), study_storage(study).together():
        trial.set_user_attr("failure", "why")
        _ = 1 / 0
    trial.set_user_attr("after", 1)
    assert study.get_trials()[trial.number].user_attrs["failure"] == "why"
    study.tell(trial, 0.5)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study_storage(study).set_trial_user_attr(trial._trial_id, "late", 1)


def test_a_full_database_is_named(sqlite: str) -> None:
    study = created(sqlite)
    storage = study_storage(study)
    sa.event.listen(
        storage.engine, "checkout", lambda raw, *_: raw.execute("PRAGMA max_page_count = 1")
    )
    with pytest.raises(MachineError, match=r"study\.db: .*full"), storage.errors():
        study.set_user_attr("much", "x" * 1_000_000)
