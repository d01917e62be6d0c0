from __future__ import annotations

import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

import search.storage.database
import search.storage.opening
import search.storage.places
from search.storage.claims import BudgetSpentError, ClaimLostError
from search.storage.database import StudyStorage
from search.storage.recovery import LIVES
from search.storage.studies import create_or_resume, load_study, study_storage
from tests.processes import ask, code, created, start, study_file


def _create_and_run(url: str, trials: int) -> None:
    study = create_or_resume(study_file(trials=trials), url)
    study.sampler = optuna.samplers.RandomSampler()
    try:
        study.optimize(_instantly, n_trials=1_000)
    except BudgetSpentError:
        sys.exit(0)


def _instantly(trial: optuna.Trial) -> float:
    value = trial.suggest_float("x", 0, 1)
    runs = trial.user_attrs.get("runs", 0) + 1
    trial.set_user_attr("runs", runs)
    if trial.number % 7 == 3:
        raise optuna.TrialPruned
    return value


def test_eight_processes_create_one_study_and_keep_its_budget(url: str) -> None:
    processes = [start(_create_and_run, url, 30) for _ in range(8)]
    assert [code(process) for process in processes] == [0] * 8
    trials = load_study("toy", url).trials
    assert [trial.number for trial in trials] == list(range(30))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert {trial.user_attrs["runs"] for trial in trials} == {1}


def test_eight_processes_run_forty_queued_trials_once_each(url: str) -> None:
    study = created(url, trials=40)
    for number in range(40):
        study.enqueue_trial({"x": number / 40})
    processes = [start(_create_and_run, url, 40) for _ in range(8)]
    assert [code(process) for process in processes] == [0] * 8
    trials = study.trials
    assert sorted(trial.params["x"] for trial in trials) == [number / 40 for number in range(40)]
    assert {trial.user_attrs["runs"] for trial in trials} == {1}


BEGINNINGS = pytest.mark.parametrize(
    ("owner", "step", "queued"), [(RDBStorage, "_create_new_trial", 0), (StudyStorage, "_claim", 1)]
)


@pytest.mark.parametrize("arrived", [True, False])
@BEGINNINGS
def test_a_trial_is_begun_once_although_the_connection_drops(
    owner: type, step: str, queued: int, arrived: bool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = created(url, trials=1)
    for _ in range(queued):
        study.enqueue_trial({"x": 0.5})
    begin, calls = getattr(owner, step), []

    def dropping(*args: Any) -> Any:
        calls.append(args)
        begun = begin(*args) if arrived or len(calls) > 1 else None
        if len(calls) == 1:
            gone = Exception("terminating connection due to administrator command")
            raise sa.exc.DBAPIError("COMMIT", None, gone, connection_invalidated=True)
        return begun

    monkeypatch.setattr(owner, step, dropping)
    trial = ask(study)
    assert (trial.number, len(calls), len(study.trials)) == (0, 2, 1)
    study.tell(trial, 0.5)
    assert study.trials[0].state == TrialState.COMPLETE


@BEGINNINGS
def test_a_trial_that_others_take_while_the_connection_is_away_is_theirs(
    owner: type, step: str, queued: int, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = created(sqlite, trials=2), load_study("toy", sqlite)
    for _ in range(queued):
        study.enqueue_trial({"x": 0.5})
    begin, taken = getattr(owner, step), list[int]()

    def dropping(*args: Any) -> Any:
        begun = begin(*args)
        if not taken:
            taken.append(0)
            _lose(study, other)
            taken.append(ask(other).number)
            gone = Exception("terminating connection due to administrator command")
            raise sa.exc.DBAPIError("COMMIT", None, gone, connection_invalidated=True)
        return begun

    monkeypatch.setattr(owner, step, dropping)
    assert (ask(study).number, taken) == (1, [0, 0])


def _lose(study: optuna.Study, other: optuna.Study) -> None:
    """Another worker queues the trial that `study` has just begun again."""
    (trial,) = study.trials
    assert study_storage(other).requeue(trial._trial_id, trial.user_attrs["worker"])


def test_failed_trials_are_not_counted(url: str) -> None:
    study = created(url, trials=2)
    study.tell(ask(study), state=TrialState.FAIL)
    study.tell(ask(study), 0.5)
    ask(study)
    with pytest.raises(BudgetSpentError, match="2 of 2"):
        ask(study)


def test_more_queued_trials_than_the_budget_are_not_run(url: str) -> None:
    study = created(url, trials=2)
    for _ in range(3):
        study.enqueue_trial({"x": 0.5})
    with pytest.raises(BudgetSpentError):  # as when the last is queued while one is looked for
        study_storage(study).create_new_trial(study._study_id)
    first, second = ask(study), ask(study)
    with pytest.raises(BudgetSpentError):
        ask(study)
    study.tell(first, 0.5)
    study.tell(second, state=TrialState.FAIL)
    assert ask(study).number == 2


def test_a_queued_trial_keeps_number_parameters_and_reports(url: str) -> None:
    study = created(url, trials=1)
    trial = ask(study)
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("architecture", {"blocks": []})
    trial.report(0.25, 1)
    storage = study_storage(study)
    assert storage.requeue(trial._trial_id, trial.user_attrs["worker"])
    assert study.trials[0].state == TrialState.WAITING
    again = ask(study)
    assert again.number == 0
    assert again.suggest_float("x", 0, 1) == x
    assert study.trials[0].intermediate_values == {1: 0.25}
    assert not storage.owns(trial._trial_id, trial.user_attrs["worker"])
    assert storage.owns(trial._trial_id, again.user_attrs["worker"])
    assert not storage.requeue(trial._trial_id, trial.user_attrs["worker"])
    study.tell(again, x)
    assert not storage.requeue(again._trial_id, again.user_attrs["worker"])
    assert study.trials[0].state == TrialState.COMPLETE


def _queued(study: optuna.Study, **attributes: Any) -> None:
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs=attributes))


def test_who_trains_finalists_or_one_trial_begins_no_other(sqlite: str) -> None:
    study = created(sqlite, trials=9)
    storage = study_storage(study)
    for _ in range(2):
        _queued(study)
    _queued(study, finalist={"trial": 0, "repeat": 0, "index": 0})
    for finals, only, allowed in ((False, 0, 0), (True, None, 2)):
        storage.finals, storage.only = finals, only
        assert ask(study).number == allowed
        with pytest.raises(BudgetSpentError):
            ask(study)
    storage.finals = False
    _queued(study, finalist={"trial": 0, "repeat": 1, "index": 1})
    assert [ask(study).number for _ in range(2)] == [1, 4]
    assert [trial.number for trial in study.trials if trial.datetime_start] == [0, 1, 2, 4]


def test_a_finalist_is_queued_once_by_those_who_want_to_at_the_same_time(url: str) -> None:
    study = created(url)
    for index in (0, 0, 1, 1):
        finalist = {"trial": 0, "repeat": 0, "index": index}
        template = optuna.create_trial(state=TrialState.WAITING, user_attrs={"finalist": finalist})
        study_storage(study).queue_finalist(study._study_id, template)
    assert [trial.user_attrs["finalist"]["index"] for trial in study.trials] == [0, 1]


def test_half_a_candidate_is_forgotten(url: str) -> None:
    study = created(url)
    trial = ask(study)
    trial.suggest_float("x", 0, 1)
    study_storage(study).requeue(trial._trial_id, trial.user_attrs["worker"])
    assert study.trials[0].params == {}


def _claimed_elsewhere(study: optuna.Study, silence: float) -> int:
    """A running trial of another machine, whose heart beat `silence` seconds ago."""
    storage, trial = study_storage(study), ask(study)
    storage.set_trial_user_attr(
        trial._trial_id, "worker", {**trial.user_attrs["worker"], "pids": "another machine"}
    )
    _silence(storage, trial._trial_id, silence)
    return trial._trial_id


def _silence(storage: StudyStorage, trial_id: int, seconds: float) -> None:
    now = {
        "sqlite": "datetime('now', '-{} seconds')",
        "postgresql": "now() - interval '{} s'",
        "mysql": "now() - interval {} second",
    }
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE trial_heartbeats SET heartbeat = "
            f"{now[storage.engine.name].format(int(seconds))} WHERE trial_id = {trial_id}"
        )


def test_silence_beyond_the_grace_period_is_death(url: str) -> None:
    study = create_or_resume(study_file(trials=5), url, heartbeat=1, grace=10)
    _claimed_elsewhere(study, silence=5)
    _claimed_elsewhere(study, silence=20)
    assert study_storage(study).recover(study._study_id) == 1
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "WAITING"]


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.RUNNING])
def test_a_trial_that_ends_or_goes_on_while_others_look_is_not_recovered(
    state: TrialState, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = create_or_resume(study_file(trials=5), sqlite, heartbeat=1, grace=10)
    other = load_study("toy", sqlite, heartbeat=1, grace=10)
    trial, storage = ask(study), study_storage(other)
    _silence(storage, trial._trial_id, 20)
    look = storage._running

    def slow(study_id: int) -> Any:
        found = look(study_id)
        if state == TrialState.COMPLETE:
            study.tell(trial, 0.5)
        else:
            _lose(study, study)
            ask(study)
        return found

    monkeypatch.setattr(storage, "_running", slow)
    assert storage.recover(study._study_id) == 0
    assert [trial.state for trial in study.trials] == [state]


def test_a_heartbeat_that_fails_is_followed_by_another(
    sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.storage.patience.PATIENCE", 0.1)
    study = create_or_resume(study_file(), sqlite, heartbeat=1, grace=10)
    trial, storage = ask(study), study_storage(study)
    _silence(storage, trial._trial_id, 20)
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        storage.record_heartbeat(trial._trial_id)  # Optuna's thread would end with an error
    storage.record_heartbeat(trial._trial_id)
    assert storage.recover(study._study_id) == 0


def test_the_heart_beats_from_the_claim_on(url: str) -> None:
    study = create_or_resume(study_file(trials=5), url, heartbeat=1, grace=10)
    study.enqueue_trial({"x": 0.5})
    for _ in range(2):
        ask(study)
        with study_storage(study).engine.connect() as connection:
            beats = connection.exec_driver_sql("SELECT count(*) FROM trial_heartbeats").scalar()
        assert beats == len(study.get_trials(states=[TrialState.RUNNING]))


def test_a_living_worker_on_this_machine_keeps_its_trial(url: str) -> None:
    study = created(url)
    ask(study)
    assert study_storage(study).recover(study._study_id) == 0


def _die_holding_a_trial(url: str) -> None:
    ask(load_study("toy", url))


def test_a_trial_that_kills_its_workers_fails_at_last(url: str) -> None:
    study = created(url)
    for death in range(1, LIVES + 1):
        assert code(start(_die_holding_a_trial, url)) == 0
        assert study_storage(study).recover(study._study_id) == 1
        state = TrialState.FAIL if death == LIVES else TrialState.WAITING
        assert [trial.state for trial in study.trials] == [state]
    assert study.trials[0].user_attrs["failure"] == f"its worker died {LIVES} times"
    assert study.trials[0].duration


def _recover(url: str) -> None:
    study = load_study("toy", url)
    sys.exit(study_storage(study).recover(study._study_id))


def test_an_abandoned_trial_is_queued_once(url: str) -> None:
    study = created(url)
    assert code(start(_die_holding_a_trial, url)) == 0
    assert sum(code(process) for process in [start(_recover, url) for _ in range(6)]) == 1
    assert [trial.state for trial in study.trials] == [TrialState.WAITING]
    assert study.trials[0].user_attrs["deaths"] == 1


def test_eight_workers_start_one_clock(url: str) -> None:
    study = created(url)
    storages = [study_storage(load_study(study.study_name, url)) for _ in range(8)]
    together = Barrier(len(storages))

    def start_clock(storage: StudyStorage) -> float:
        together.wait()
        return storage.advance_clock(study._study_id)

    with ThreadPoolExecutor(len(storages)) as pool:
        assert min(pool.map(start_clock, storages)) == 0
    assert study.user_attrs["clock"]["seconds"] < 60


def test_counts_and_best_value(url: str) -> None:
    study = created(url, trials=10)
    storage = study_storage(study)
    assert storage.best_value(study._study_id) is None
    for state, value in [("COMPLETE", 0.3), ("COMPLETE", 0.7), ("PRUNED", 0.9), ("FAIL", None)]:
        study.add_trial(
            optuna.create_trial(
                state=TrialState[state],
                value=value,
                params={"x": 0.5},
                distributions={"x": FloatDistribution(0, 1)},
            )
        )
    finalist = {"finalist": {"trial": 1, "repeat": 0, "index": 0}}
    study.add_trial(optuna.create_trial(value=0.8, user_attrs=finalist))
    counts = storage.count(study._study_id)
    assert counts == {TrialState.COMPLETE: 2, TrialState.PRUNED: 1, TrialState.FAIL: 1}
    assert storage.best_value(study._study_id) == 0.7
    other = create_or_resume(
        study_file(name="other", objectives=["accuracy", "macs"], pruner="none"), url
    )
    other.add_trial(optuna.create_trial(values=[0.2, 5_000.0]))
    assert storage.count(other._study_id) == {TrialState.COMPLETE: 1}
    assert storage.best_value(other._study_id) == 0.2, "the first of its objectives"


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(gaps=st.lists(st.floats(0, 100) | st.floats(-100, -30), max_size=8))
def test_the_clock_runs_only_while_somebody_works(
    sqlite: str,
    gaps: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = create_or_resume(study_file(name=f"s{time.time_ns()}"), sqlite)
    storage, now = study_storage(study), [1000.0]
    monkeypatch.setattr(search.storage.database.time, "time", lambda: now[0])
    passed = storage.advance_clock(study._study_id)
    assert passed == 0
    for gap in gaps:
        now[0] += gap
        passed = storage.advance_clock(study._study_id)
    assert passed == pytest.approx(sum(gap for gap in gaps if 0 < gap < 30), abs=1e-6)


@pytest.mark.parametrize("ahead", [0.0, 0.5, 10.0, 25.0])
def test_the_clock_counts_once_where_that_of_one_machine_is_ahead(
    ahead: float, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines look in turn, each a second after the other, for two minutes."""
    study, now = created(sqlite), [1000.0]
    monkeypatch.setattr(search.storage.database.time, "time", lambda: now[0])
    passed = []
    for second in range(121):
        now[0] = 1000.0 + second + ahead * (second % 2)
        passed.append(study_storage(study).advance_clock(study._study_id))
    assert passed == sorted(passed)
    assert 120 - 1e-6 <= passed[-1] <= 120 + ahead + 1e-6


def test_the_clock_runs_where_minutes_pass_between_two_steps(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an evaluation of large images; the trial's heart beats all the time."""
    study, now = created(sqlite), [1000.0]
    monkeypatch.setattr(search.storage.database.time, "time", lambda: now[0])
    storage, trial = study_storage(study), ask(study)
    assert storage.advance_clock(study._study_id) == 0
    for _ in range(12):
        now[0] += search.storage.opening.HEARTBEAT
        storage.record_heartbeat(trial._trial_id)
    assert storage.advance_clock(study._study_id) == pytest.approx(180)
    storage.delete_study(study._study_id)
    storage.record_heartbeat(trial._trial_id)  # of a thread that has not ended yet


def test_opening_twice_keeps_the_locks_of_the_first(sqlite: str) -> None:
    # A process that closes a database's file drops all its locks on it (POSIX): the next one
    # to leave would take the write-ahead log away from under those that stay.
    study = created(sqlite, trials=5)
    assert study.trials == []
    created(sqlite, trials=5)
    assert code(start(_create_and_run, sqlite, 5)) == 0
    assert len(study.trials) == 5


def test_who_lost_a_trial_writes_nothing_more_to_it(url: str) -> None:
    """As with a suspended machine: it wakes, and goes on where another is by now."""
    study, other = created(url, trials=3), load_study("toy", url)
    trial, storage = ask(study), study_storage(study)
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("architecture", {})
    assert study_storage(other).requeue(trial._trial_id, trial.user_attrs["worker"])
    _refuses_all(study, trial)  # while it waits
    again = ask(other)
    assert again.number == trial.number
    again.set_user_attr("failure", "of the new one")
    _refuses_all(study, trial)  # while it runs elsewhere
    assert other.trials[0].user_attrs["failure"] == "of the new one"
    assert other.trials[0].state == TrialState.RUNNING
    other.tell(again, 0.7)
    _refuses_all(study, trial)  # when it has ended there
    assert other.trials[0].value == 0.7
    assert other.trials[0].intermediate_values == {}
    assert not storage.owns(trial._trial_id, trial.user_attrs["worker"])
    study.tell(ask(study), 0.5)  # other trials go on


def test_who_sleeps_in_a_transaction_keeps_nobody_from_its_rows(
    postgresql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.storage.patience.PATIENCE", 0.3)
    postgresql.psql("DROP DATABASE IF EXISTS asleep; CREATE DATABASE asleep;")
    url = postgresql.get_uri(database="asleep")
    study, other = created(url), load_study("toy", url)
    trial = ask(study)
    with study_storage(study).engine.connect() as connection:
        connection.exec_driver_sql("UPDATE trials SET number = number")
        assert study_storage(other).requeue(trial._trial_id, trial.user_attrs["worker"])
        with pytest.raises(sa.exc.DBAPIError, match="idle-in-transaction timeout") as found:
            connection.exec_driver_sql("SELECT 1")
        assert found.value.connection_invalidated, "or nobody would try again"
    with pytest.raises(ClaimLostError):  # awake, on a connection of its own again
        trial.report(0.1, 1)


def test_nobody_takes_a_trial_over_between_the_look_and_the_write(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = created(url), load_study("toy", url)
    trial, storage = ask(study), study_storage(study)
    claim, look = trial.user_attrs["worker"], storage.require_claim
    with ThreadPoolExecutor(1) as pool:

        def suspended(session: sa.orm.Session, row: Any) -> None:
            look(session, row)
            taken = pool.submit(study_storage(other).requeue, trial._trial_id, claim)
            with pytest.raises(TimeoutError):
                taken.result(timeout=0.2)

        monkeypatch.setattr(storage, "require_claim", suspended)
        trial.report(0.1, 1)
    assert study.trials[0].intermediate_values == {1: 0.1}
    assert study.trials[0].state == TrialState.WAITING


def _refuses_all(study: optuna.Study, trial: optuna.Trial) -> None:
    with pytest.raises(ClaimLostError, match="another worker has taken trial 0 over"):
        trial.set_user_attr("failure", "of the old one")
    with pytest.raises(ClaimLostError):
        trial.report(0.1, 1)
    with pytest.raises(ClaimLostError):
        study_storage(study).set_trial_system_attr(trial._trial_id, "artifact", "x")
    told = study_storage(study).set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.1])
    assert not told
    with pytest.raises(ClaimLostError), study_storage(study).together():
        trial.suggest_float(f"late {len(trial.params)}", 0, 1)


def test_an_end_that_is_told_again_has_arrived(url: str) -> None:
    study = created(url)
    trial, storage = ask(study), study_storage(study)
    claim = storage._claims[trial._trial_id]
    assert storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])
    storage._claims[trial._trial_id] = claim  # the connection dropped behind the commit
    assert storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])
    assert study.best_value == 0.5
