from __future__ import annotations

import hashlib
import pickle
import re
import sqlite3
import string
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import quote

import optuna
import pytest
import sqlalchemy as sa
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.artifacts import get_all_artifact_meta
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

import search.storage.database
import search.storage.opening
import search.storage.places
from search.config.secrecy import concealed, require_no_password
from search.config.sections import StudyConfig
from search.errors import ConfigError, MachineError
from search.storage.checkpoints import (
    CheckpointError,
    artifact_store,
    attach,
    load_checkpoint,
    save_checkpoint,
)
from search.storage.database import DEATHS, BudgetSpentError, StudyStorage
from search.storage.opening import file_system, open_storage
from search.storage.places import redacted, run_directory, storage_url
from search.storage.studies import create_or_resume, load_study, study_config, study_storage
from search.workers import supervisor
from tests.conftest import open_to_others
from tests.processes import code, created, start, study_file

# --- where a study lives ---------------------------------------------------------------


def test_flag_before_environment_before_file_before_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STUDY_STORAGE", "sqlite:///environment.db")
    assert storage_url("sqlite:///flag.db", "sqlite:///file.db", "x") == "sqlite:///flag.db"
    assert storage_url(None, "sqlite:///file.db", "x") == "sqlite:///environment.db"
    monkeypatch.delenv("STUDY_STORAGE")
    assert storage_url(None, "sqlite:///file.db", "x") == "sqlite:///file.db"
    assert storage_url(None, None, "x") == "sqlite:///studies/x.db"


@pytest.mark.parametrize("rest", ["me:s3cret@host/db", "me@host/db?password=s3cret"])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(rest: str) -> None:
    with pytest.raises(ConfigError, match="STUDY_STORAGE") as caught:
        storage_url(f"postgresql://{rest}", None, "x")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "given_url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/db",
        "postgresql://me:s3cret{@127.0.0.1:1/db",
        "postgresql://me@127.0.0.1:1/db?password=s3cret",
        "mysql://me:s3cret@127.0.0.1:1/db",
        "oracle://me:s3cret@host/db",
        "s3cret",
        "postgresql://me:s3cret@host:port/db",
        "postgresql://me:{s3cret}@127.0.0.1:1/db",
        "postgresql://me:p@s3cret@127.0.0.1:1/db",
        "postgresql://me:p@a/s3cret@127.0.0.1:1/db",
        "postgresql://me:p@a?b=s3cret@127.0.0.1:1/db",
        "postgresql://me:p@a?s3cret@127.0.0.1:1/db",
        "postgresql://me:p@a:s3cret@127.0.0.1:1/db",
        "postgresql://me/x:s3cret@127.0.0.1:1/db",
        "postgresql:///me:s3cret@127.0.0.1:1/db",
        "postgresql://me:%73%33cret@[::1]:1/db",
        "postgresql://me:s3cret%0A%25%7B@[::1]:1/db",
        "postgresql://me@127.0.0.1:1/db?options=-c%20s3cret",
        "postgresql://me@127.0.0.1:1/db?bogus=s3cret",
        "postgresql://me@127.0.0.1:1/db?password=a&s3cret",
        "postgresql://me@127.0.0.1:1/db?pass%77ord=s3cret",
        "postgresql://127.0.0.1:1/db?service=s3cret",
        "postgresql://127.0.0.1:1/db?sslkey=s3cret&sslkey=s3cret2",
        "mysql://me:s3cret@127.0.0.1:1/db?passwd=s3cret",
        "mysql://me@127.0.0.1:1/db?connect_timeout=1&init_command=s3cret",
        "sqlite://me:s3cret@host/db",
        "sqlite:////no/such/folder/a.db?key=s3cret",
    ],
)
def test_no_error_repeats_a_password(given_url: str) -> None:
    with pytest.raises((ConfigError, MachineError)) as caught:
        open_storage(given_url)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None  # a traceback would print that


@pytest.mark.parametrize("sign", string.punctuation)
def test_a_password_of_any_punctuation_arrives_and_is_not_shown(sign: str) -> None:
    words = f"s3c{sign}r3t"
    for written in {quote(words, safe=""), words} if sign != "@" else {quote(words, safe="")}:
        given = f"postgresql://me:{written}@127.0.0.1:1/db?application_name=x"
        assert search.storage.places._parse(given).password == words
        assert redacted(given) == ("postgresql+psycopg://me:***@127.0.0.1:1/db?application_name=x")
        assert concealed(given) == "postgresql://me:***@127.0.0.1:1/db?application_name=x"
        with pytest.raises(ConfigError, match="STUDY_STORAGE") as refused:
            require_no_password(f"study={{storage='{given}'}}")
        with pytest.raises(MachineError, match="refused") as caught:
            open_storage(given)
        assert not re.search("s3c|r3t", f"{caught.value} {refused.value}")


@pytest.mark.parametrize(
    "word",
    [
        "postgresql://me@host:5432/db",
        "postgresql://me@[::1]:5432/db?sslmode=require&connect_timeout=3",
        "postgresql:///db?host=/run/postgresql",
        "sqlite:////home/me:you@home/a.db",
        "data.root=/home/me:you@home",
        "postgresql://postgres:@/db?passfile=/home/me/.pgpass",
    ],
)
def test_what_holds_no_password_may_stand_on_the_command_line(word: str) -> None:
    require_no_password(word)


def test_what_is_harmless_is_shown_and_the_rest_is_not() -> None:
    given = "postgresql://me@[::1]:5432/db?host=/run&bogus=1&SSLMODE=require&options=-c x"
    shown = "postgresql+psycopg://me@[::1]:5432/db?"
    assert concealed(given) == (
        "postgresql://me@[::1]:5432/db?host=/run&bogus=***&SSLMODE=require&options=***"
    )
    assert redacted(given).startswith(shown)
    assert concealed("sqlite:////home/me:you@home/a.db") == "sqlite:////home/me:you@home/a.db"


def test_redacted_and_representation(url: str) -> None:
    assert redacted("postgresql://me:s3cret@host/db") == "postgresql+psycopg://me:***@host/db"
    assert repr(open_storage(url)) == f"StudyStorage({redacted(url)})"


def test_the_storage_of_a_study_file_is_in_nothing_that_is_kept() -> None:
    config = study_file(storage="postgresql://me:s3cret@host/db")
    assert config.study.storage == "postgresql://me:s3cret@host/db"
    assert "s3cret" not in f"{config!r} {config.to_toml()} {config.model_dump_json()}"
    assert config.search_hash == study_file().search_hash


def test_runs_lie_beside_the_database() -> None:
    assert run_directory("sqlite:////data/x.db", "toy") == Path("/data/runs/toy")
    assert run_directory("postgresql://host/db", "toy") == Path("studies/runs/toy")


# --- opening ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_url", "reason"),
    [
        ("nonsense", "not a URL"),
        ("sqlite:///{tmp}/missing/x.db", "missing does not exist"),
        ("sqlite:///{tmp}/text", "not a SQLite database"),
        ("sqlite:///{tmp}", "is a directory"),
        ("sqlite://", "must name a file"),
        ("redis://host/1", "must be sqlite, postgresql or mysql"),
    ],
)
def test_a_bad_place_is_named_and_nothing_is_made(
    tmp_path: Path, given_url: str, reason: str
) -> None:
    (tmp_path / "text").write_text("no database at all\n")
    with pytest.raises(ConfigError, match=reason):
        create_or_resume(study_file(), given_url.format(tmp=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_corrupt_database_is_named_and_left_untouched(tmp_path: Path, sqlite: str) -> None:
    study_storage(created(sqlite)).engine.dispose()
    path = tmp_path / "study.db"
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(MachineError, match=r"study\.db is corrupt"):
        load_study("toy", sqlite)
    assert path.read_bytes() == content


def test_a_database_of_something_else_is_no_study(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE other (id INTEGER)")
    with pytest.raises(ConfigError, match="no study toy"):
        load_study("toy", f"sqlite:///{tmp_path}/other.db")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_sqlite_refuses_network_file_systems(
    kind: str,
    sqlite: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mounts = {"/": "ext4", str(tmp_path): kind}
    monkeypatch.setattr(search.storage.opening, "_mounts", lambda: mounts)
    with pytest.raises(MachineError, match=rf"{kind}.*PostgreSQL"):
        open_storage(sqlite)
    assert not list(tmp_path.iterdir())


def test_the_innermost_mount_holds_a_path() -> None:
    mounts = {"/": "ext4", "/net": "nfs", "/net/local": "xfs"}
    assert file_system(Path("/net/local/a.db"), mounts) == "xfs"
    assert file_system(Path("/net/other/a.db"), mounts) == "nfs"
    assert file_system(Path("/network/a.db"), mounts) == "ext4"


def test_this_machines_mounts_are_read() -> None:
    assert search.storage.opening._mounts()


def test_sqlite_is_safe_for_several_workers(sqlite: str) -> None:
    with open_storage(sqlite).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # full


def test_what_is_told_is_on_the_disk_and_the_rest_with_it(sqlite: str) -> None:
    study = created(sqlite)
    trial, seen = _ask(study), list[str]()

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
    with study_storage(study).together() as batch:  # as beside a checkpoint
        trial.report(0.6, 2)
        batch.durable = True
    assert set(seen) == {"FULL"}
    seen.clear()
    study.tell(trial, 0.5)
    assert seen[-1] == "FULL"


def test_writes_together_are_one_transaction_of_a_trial(url: str) -> None:
    study = created(url)
    storage, trial, seen = study_storage(study), _ask(study), list[str]()

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
    trials = [_ask(load_study(study.study_name, url)) for _ in range(8)]
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
    trial = _ask(study)
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


# --- studies ---------------------------------------------------------------------------


def test_a_study_keeps_its_configuration(url: str) -> None:
    config = study_file(objectives=["accuracy", "macs"], pruner="none", target=0.9, trials=7)
    create_or_resume(config, url)
    study = load_study("toy", url)
    assert study_config(study) == config
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "macs"]
    assert study_storage(study).trials == 7


def test_a_resume_may_change_budget_and_target(url: str) -> None:
    created(url)
    changed = study_file(trials=9, target=0.5, hours=1.0, minutes=2.0, failures=1, proposals=5)
    create_or_resume(changed, url)
    assert study_config(load_study("toy", url)) == changed


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"study": {"name": "toy", "seed": 1}}, "study.seed"),
        (
            {"study": {"name": "toy", "objectives": ["accuracy", "macs"], "pruner": "none"}},
            "study.objectives",
        ),
        ({"study": {"name": "toy"}, "limits": {"parameters": 100_000}}, "limits.parameters"),
        ({"study": {"name": "toy"}, "training": {"epochs": 3}}, "training.epochs"),
        ({"study": {"name": "toy"}, "space": {"activation": ["relu"]}}, "space.activation"),
    ],
)
def test_a_resume_names_the_key_that_differs(
    sqlite: str,
    changed: dict[str, Any],
    key: str,
) -> None:
    before = study_config(created(sqlite))
    with pytest.raises(ConfigError, match=rf"^{key}: study toy has .*another name"):
        create_or_resume(StudyConfig.model_validate(changed), sqlite)
    assert study_config(load_study("toy", sqlite)) == before


def test_a_study_that_is_not_there(sqlite: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.db does not exist"):
        load_study("toy", sqlite)
    assert not list(tmp_path.iterdir())
    created(sqlite)
    with pytest.raises(ConfigError, match=r"no study other at .*; there are: toy"):
        load_study("other", sqlite)


def test_a_foreign_study_is_refused(sqlite: str) -> None:
    optuna.create_study(study_name="foreign", storage=open_storage(sqlite))
    with pytest.raises(ConfigError, match="not made by this program"):
        load_study("foreign", sqlite)


def test_opening_twice_keeps_the_locks_of_the_first(sqlite: str) -> None:
    # A process that closes a database's file drops all its locks on it (POSIX): the next one
    # to leave would take the write-ahead log away from under those that stay.
    study = created(sqlite, trials=5)
    assert study.trials == []
    created(sqlite, trials=5)
    assert code(start(_create_and_run, sqlite, 5)) == 0
    assert len(study.trials) == 5


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


# --- budget and queue ------------------------------------------------------------------


def _ask(study: optuna.Study) -> optuna.Trial:
    study._thread_local.in_optimize_loop = True  # or Optuna warns that nothing beats the heart
    return study.ask()


def test_failed_trials_are_not_counted(url: str) -> None:
    study = created(url, trials=2)
    study.tell(_ask(study), state=TrialState.FAIL)
    study.tell(_ask(study), 0.5)
    _ask(study)
    with pytest.raises(BudgetSpentError, match="2 of 2"):
        _ask(study)


def test_more_queued_trials_than_the_budget_are_not_run(url: str) -> None:
    study = created(url, trials=2)
    for _ in range(3):
        study.enqueue_trial({"x": 0.5})
    first, second = _ask(study), _ask(study)
    with pytest.raises(BudgetSpentError):
        _ask(study)
    study.tell(first, 0.5)
    study.tell(second, state=TrialState.FAIL)
    assert _ask(study).number == 2


def test_a_queued_trial_keeps_number_parameters_and_reports(url: str) -> None:
    study = created(url, trials=1)
    trial = _ask(study)
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("architecture", {"blocks": []})
    trial.report(0.25, 1)
    storage = study_storage(study)
    assert storage.requeue(trial._trial_id, trial.user_attrs["worker"])
    assert study.trials[0].state == TrialState.WAITING
    again = _ask(study)
    assert again.number == 0
    assert again.suggest_float("x", 0, 1) == x
    assert study.trials[0].intermediate_values == {1: 0.25}
    assert not storage.owns(trial._trial_id, trial.user_attrs["worker"])
    assert storage.owns(trial._trial_id, again.user_attrs["worker"])
    assert not storage.requeue(trial._trial_id, trial.user_attrs["worker"])


def test_half_a_candidate_is_forgotten(url: str) -> None:
    study = created(url)
    trial = _ask(study)
    trial.suggest_float("x", 0, 1)
    study_storage(study).requeue(trial._trial_id, trial.user_attrs["worker"])
    assert study.trials[0].params == {}


def _claimed_elsewhere(study: optuna.Study, silence: float) -> int:
    """A running trial of another machine, whose heart beat `silence` seconds ago."""
    storage, trial = study_storage(study), _ask(study)
    storage.set_trial_user_attr(
        trial._trial_id, "worker", {**trial.user_attrs["worker"], "pids": "another machine"}
    )
    now = {
        "sqlite": "datetime('now', '-{} seconds')",
        "postgresql": "now() - interval '{} s'",
        "mysql": "now() - interval {} second",
    }
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE trial_heartbeats SET heartbeat = "
            f"{now[storage.engine.name].format(int(silence))} WHERE trial_id = {trial._trial_id}"
        )
    return trial._trial_id


def test_silence_beyond_the_grace_period_is_death(url: str) -> None:
    study = create_or_resume(study_file(trials=5), url, heartbeat=1, grace=10)
    _claimed_elsewhere(study, silence=5)
    _claimed_elsewhere(study, silence=20)
    assert study_storage(study).recover(study._study_id) == 1
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "WAITING"]


def test_the_heart_beats_from_the_claim_on(url: str) -> None:
    study = create_or_resume(study_file(trials=5), url, heartbeat=1, grace=10)
    study.enqueue_trial({"x": 0.5})
    for _ in range(2):
        _ask(study)
        with study_storage(study).engine.connect() as connection:
            beats = connection.exec_driver_sql("SELECT count(*) FROM trial_heartbeats").scalar()
        assert beats == len(study.get_trials(states=[TrialState.RUNNING]))


def test_a_living_worker_on_this_machine_keeps_its_trial(url: str) -> None:
    study = created(url)
    _ask(study)
    assert study_storage(study).recover(study._study_id) == 0


def _die_holding_a_trial(url: str) -> None:
    _ask(load_study("toy", url))


def test_a_trial_that_kills_its_workers_fails_at_last(url: str) -> None:
    study = created(url)
    for death in range(1, DEATHS + 1):
        assert code(start(_die_holding_a_trial, url)) == 0
        assert study_storage(study).recover(study._study_id) == 1
        state = TrialState.FAIL if death == DEATHS else TrialState.WAITING
        assert [trial.state for trial in study.trials] == [state]
    assert study.trials[0].user_attrs["failure"] == f"its worker died {DEATHS} times"


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
    counts = storage.count(study._study_id)
    assert counts == {TrialState.COMPLETE: 2, TrialState.PRUNED: 1, TrialState.FAIL: 1}
    assert storage.best_value(study._study_id) == 0.7


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(gaps=st.lists(st.floats(0, 100), max_size=8))
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
    assert passed == pytest.approx(sum(gap for gap in gaps if gap < 30), abs=1e-6)


# --- checkpoints and artifacts ---------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.checkpoint"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"weights": {"w": torch.arange(6.0).view(2, 3)}, "history": [{"a": 1}]})
    state = load_checkpoint(path)
    assert state is not None
    assert torch.equal(state["weights"]["w"], torch.arange(6.0).view(2, 3))
    assert state["history"] == [{"a": 1}]
    assert [entry.name for entry in path.parent.iterdir()] == ["a.checkpoint"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_or_missing_end_is_found(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.checkpoint"
    save_checkpoint(path, {"w": torch.ones(8)})
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.checkpoint: corrupt"):
        load_checkpoint(path)


def test_a_hostile_pickle_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "owned",)

    path = tmp_path / "a.checkpoint"
    payload = pickle.dumps(Hostile(), protocol=2)
    path.write_bytes(b"C1C4-CHECKPOINT\n" + hashlib.sha256(payload).digest() + payload)
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.usefixtures("open_umask")
def test_what_a_study_makes_is_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = "sqlite:///studies/toy.db"
    study, runs = created(url), run_directory(url, "toy")
    study.set_user_attr("log", "there")  # while connected: SQLite's log and its index
    assert {f"toy.db{end}" for end in ("", "-wal", "-shm", ".lock")} <= {
        path.name for path in Path("studies").iterdir()
    }
    save_checkpoint(runs / "a.checkpoint", {"x": 1})
    (runs / "curve.txt").touch(0o600)
    attach(study, runs / "curve.txt", artifact_store(runs))
    command = [sys.executable, "-c", "print('done')"]
    assert supervisor.launch(command, url, workers=1, logs=runs / "logs").reason == "done"
    assert len([path for path in runs.rglob("*") if path.is_file()]) == 4
    assert not open_to_others(tmp_path)


@pytest.mark.usefixtures("open_umask")
def test_what_was_there_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    sqlite3.connect(shared / "toy.db").close()
    (shared / "toy.db.lock").touch()
    created(f"sqlite:///{shared}/toy.db")
    kept = {shared / name for name in ("toy.db", "toy.db.lock")}
    assert kept < set(open_to_others(tmp_path))


def test_an_artifact_lies_beside_the_runs(tmp_path: Path, sqlite: str) -> None:
    study = created(sqlite)
    (tmp_path / "curve.txt").write_text("0.5")
    identifier = attach(study, tmp_path / "curve.txt", artifact_store(tmp_path / "runs"))
    assert (tmp_path / "runs" / "artifacts" / identifier).read_text() == "0.5"
    names = [artifact.filename for artifact in get_all_artifact_meta(study)]
    assert names == ["curve.txt"]
