"""Optuna's relational storage, made safe for several workers.

What a study must not lose lies in its database, so everything that decides which trial may
start, and who works on it, happens here inside one database transaction: the count against
the budget, the claim of a waiting trial, the return of an abandoned one to the queue.
`StudyStorage` overrides non-public methods of Optuna's `RDBStorage` for that; its
tests run eight processes against a real SQLite file and a real PostgreSQL server.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from search.storage import patience
from search.storage.identity import identity, is_gone
from search.storage.patience import (
    is_sqlite,
    light,
    patient,
    reading,
    shown,
    translated,
)
from search.storage.trials import ARCHITECTURE, DEATHS, FINALIST, WORKER, Attributes
from search.storage.writes import Batch

CLOCK_GAP = 30.0
"""Seconds without any worker's sign after which the budget of hours does not run on."""

LIVES = 3
"""How many workers a trial may take down before it is failed instead of queued again."""

_TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)


class BudgetSpentError(Exception):
    """As many trials as the study may have are finished, running or waiting."""


class _OvertakenError(Exception):
    """Another worker has queued the training of a finalist that this one wanted to."""


class StudyStorage(RDBStorage):
    """Optuna's relational storage, with claims and budgets inside its transactions.

    A trial that loses its worker returns to the queue under its own number, with its
    parameters, attributes and reports; its worker counts as lost when its process is gone
    (same machine) or its heartbeat has been silent for the grace period (any machine).

    `trials` bounds how many trials may be trained (complete or pruned), over all workers and
    resumes; None does not bound.  Trainings of finalists do not count; while `finals` holds they
    are what this process may claim, and before nothing else is.
    """

    def __init__(self, url: URL, *, heartbeat: int, grace: int) -> None:
        self.location = url
        self.trials: int | None = None
        self.finals = False
        self._thread = threading.local()
        self._given_up = False
        # Optuna fills `{SCHEMA_VERSION}` into URLs; a brace in a password is none.
        template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        options: dict[str, Any] = {"pool_pre_ping": True}
        if is_sqlite(url):
            options = {"connect_args": {"timeout": patience.PATIENCE, "isolation_level": None}}
        super().__init__(
            template, engine_kwargs=options, heartbeat_interval=heartbeat, grace_period=grace
        )
        self.url = shown(url)
        if is_sqlite(url):
            sa.event.listen(self.engine, "begin", self._begin)
        else:
            sa.event.listen(self.engine, "do_connect", self._connect_patiently)

    def __repr__(self) -> str:
        return f"StudyStorage({self.url})"

    def _begin(self, connection: sa.Connection) -> None:
        # A transaction that reads before it writes cannot upgrade its lock while another one
        # writes: it would claim a trial that is already claimed.  So every one is a writer.
        kind = getattr(self._thread, "kind", "ordinary")
        if kind == "reading":
            connection.exec_driver_sql("BEGIN")
            return
        durable = "NORMAL" if kind == "light" else "FULL"
        connection.exec_driver_sql(f"PRAGMA synchronous = {durable}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def _connect_patiently(
        self, dialect: sa.Dialect, record: object, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        # Only a server that answered once is waited for: a wrong host name fails at once.
        deadline = time.monotonic() + (0 if self._given_up else patience.PATIENCE)
        while True:
            try:
                connection = dialect.connect(*args, **options)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() >= deadline:
                    self._given_up = True  # or each of the steps that end a trial would wait
                    raise
                time.sleep(0.5)
            else:
                self._given_up = False
                return connection

    # A dropped connection goes unnoticed

    get_trial = patient(RDBStorage.get_trial)
    get_study_directions = patient(RDBStorage.get_study_directions)
    get_study_name_from_id = patient(RDBStorage.get_study_name_from_id)
    get_study_system_attrs = patient(RDBStorage.get_study_system_attrs)
    get_study_user_attrs = patient(RDBStorage.get_study_user_attrs)
    _get_best_trial_id = patient(RDBStorage._get_best_trial_id)
    _get_trials = patient(reading(RDBStorage._get_trials))
    _silent = patient(RDBStorage._get_stale_trial_ids)

    # Writes, alone or together

    @contextmanager
    def together(self) -> Iterator[Batch]:
        """Makes this thread's writes of parameters, attributes and reports, while it lasts, in
        one transaction at its end, whatever ends it.

        Reads do not see them before; the `Trial` that wrote them does.
        """
        waiting: Batch | None = getattr(self._thread, "batch", None)
        if waiting is not None:
            yield waiting
            return
        self._thread.batch = batch = Batch()
        try:
            yield batch
        finally:
            self._thread.batch = None
            for part in batch.parts():
                if part:
                    self._write(part)

    @patient
    def _write(self, batch: Batch) -> None:
        self._thread.kind = "ordinary" if batch.durable else "light"
        try:
            # A write that is repeated, but did arrive before, meets its own rows: it is done.
            with (
                _create_scoped_session(self.scoped_session, True) as session,
                session.no_autoflush,
            ):
                batch.write(session, self)
        finally:
            self._thread.kind = "ordinary"

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        with self.together() as batch:
            batch.attribute(models.StudyUserAttributeModel, study_id, key, value)
            batch.durable = True

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        with self.together() as batch:
            batch.attribute(models.StudySystemAttributeModel, study_id, key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self.together() as batch:
            batch.attribute(models.TrialUserAttributeModel, trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self.together() as batch:
            batch.attribute(models.TrialSystemAttributeModel, trial_id, key, value)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self.together() as batch:
            batch.report(trial_id, step, intermediate_value)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        parameter = (param_value_internal, distribution, previous_distribution)
        with self.together() as batch:
            batch.parameter(trial_id, param_name, parameter)

    @light
    def record_heartbeat(self, trial_id: int) -> None:
        # One that fails is followed by another; a storage that is lost ends the trial itself.
        with suppress(StorageInternalError, SQLAlchemyError):
            super().record_heartbeat(trial_id)

    # What a study's budget and queue allow

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: sa.orm.Session
    ) -> models.TrialModel:
        """Runs under the lock on the study's row.

        Raises:
            BudgetSpentError: a fresh trial would be one too many.
        """
        if template_trial is None:
            if self.finals:
                raise BudgetSpentError("the search is over")
            self._require_room(
                session, study_id, (*_TRAINED, TrialState.RUNNING, TrialState.WAITING)
            )
        elif (finalist := Attributes.of(template_trial).finalist) is not None:
            found = self._trials_of(session, study_id, finals=True).count()
            if found != finalist["index"]:
                raise _OvertakenError
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if trial.state == TrialState.RUNNING:
            self._occupy(session, trial)
        return trial

    @patient
    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        if state == TrialState.RUNNING:
            return self._claim(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def _claim(self, trial_id: int) -> bool:
        with _create_scoped_session(self.scoped_session) as session:
            study_id = (
                session.query(models.TrialModel.study_id).filter_by(trial_id=trial_id).scalar()
            )
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            again = models.TrialUserAttributeModel.find_by_trial_and_key(trial, FINALIST, session)
            if trial.state != TrialState.WAITING or (again is not None) != self.finals:
                return False
            if not self.finals:
                try:
                    self._require_room(session, study_id, (*_TRAINED, TrialState.RUNNING))
                except BudgetSpentError:
                    return False
            trial.state = TrialState.RUNNING
            trial.datetime_start = datetime.now()
            self._occupy(session, trial)
            return True

    def _require_room(
        self, session: sa.orm.Session, study_id: int, states: tuple[TrialState, ...]
    ) -> None:
        if self.trials is None:
            return
        trials = self._trials_of(session, study_id, finals=False)
        found = trials.filter(models.TrialModel.state.in_(states)).count()
        if found >= self.trials:
            raise BudgetSpentError(f"{found} of {self.trials} trials are taken")

    @staticmethod
    def _trials_of(session: sa.orm.Session, study_id: int, *, finals: bool) -> Any:
        """The trials of the search, or the trainings of its finalists."""
        attribute = models.TrialUserAttributeModel
        again = sa.exists().where(
            attribute.trial_id == models.TrialModel.trial_id, attribute.key == FINALIST
        )
        trials = session.query(models.TrialModel).filter(models.TrialModel.study_id == study_id)
        return trials.filter(again if finals else ~again)

    def queue_finalist(self, study_id: int, template: FrozenTrial) -> bool:
        """Queues the training of a finalist; False where there is another of its index."""
        try:
            self.create_new_trial(study_id, template)
        except _OvertakenError:
            return False
        return True

    def _occupy(self, session: sa.orm.Session, trial: models.TrialModel) -> None:
        # The first heartbeat belongs to the claim: a trial without one is never stale to Optuna.
        session.query(models.TrialHeartbeatModel).filter_by(trial_id=trial.trial_id).delete()
        session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id))
        worker = {**identity(), "claim": uuid.uuid4().hex[:8]}
        self._note(session, int(trial.trial_id), Attributes(worker=worker))

    def _note(self, session: sa.orm.Session, trial_id: int, attributes: Attributes) -> None:
        for name, value in attributes.items():
            self._set_trial_attr_without_commit(
                session, models.TrialUserAttributeModel, trial_id, name, value
            )

    # What happens to a trial that nobody works on any more

    @patient
    def requeue(self, trial_id: int, worker: Mapping[str, Any] | None) -> bool:
        """Returns a trial to the queue as it is; False unless it runs under the claim `worker`."""
        with _create_scoped_session(self.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            owner = models.TrialUserAttributeModel.find_by_trial_and_key(trial, WORKER, session)
            if trial.state != TrialState.RUNNING or json.loads(_text(owner)) != worker:
                return False
            self._release(session, trial)
            return True

    def _release(self, session: sa.orm.Session, trial: models.TrialModel) -> None:
        trial.state = TrialState.WAITING
        session.query(models.TrialHeartbeatModel).filter_by(trial_id=trial.trial_id).delete()
        # The objective notes the architecture once all parameters are chosen.
        if (
            models.TrialUserAttributeModel.find_by_trial_and_key(trial, ARCHITECTURE, session)
            is None
        ):
            # Half a candidate completed by another proposal would be one nobody checked.
            session.query(models.TrialParamModel).filter_by(trial_id=trial.trial_id).delete()

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Queues abandoned trials again; answers with none, for Optuna would fail them.

        Optuna calls this before each trial.
        """
        self.recover(study_id)
        return []

    def recover(self, study_id: int) -> int:
        """Queues again every running trial whose worker is lost; answers with their number."""
        silent = set(self._silent(study_id))
        lost = [
            (trial_id, worker)
            for trial_id, worker in self._running(study_id)
            if trial_id in silent or is_gone(json.loads(worker) or {})
        ]
        return sum(self._recover(trial_id, worker) for trial_id, worker in lost)

    @patient
    def _running(self, study_id: int) -> list[tuple[int, str]]:
        attribute = models.TrialUserAttributeModel
        with _create_scoped_session(self.scoped_session) as session:
            rows = (
                session.query(models.TrialModel.trial_id, attribute.value_json)
                .outerjoin(
                    attribute,
                    sa.and_(
                        attribute.trial_id == models.TrialModel.trial_id, attribute.key == WORKER
                    ),
                )
                .filter(
                    models.TrialModel.study_id == study_id,
                    models.TrialModel.state == TrialState.RUNNING,
                )
                .all()
            )
            return [(row[0], row[1] or "null") for row in rows]

    @patient
    def _recover(self, trial_id: int, worker: str) -> bool:
        with _create_scoped_session(self.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            owner = models.TrialUserAttributeModel.find_by_trial_and_key(trial, WORKER, session)
            if trial.state != TrialState.RUNNING or _text(owner) != worker:
                return False  # another worker was faster
            known = models.TrialUserAttributeModel.find_by_trial_and_key(trial, DEATHS, session)
            deaths = 1 + (json.loads(_text(known)) or 0)
            self._note(session, trial_id, Attributes(deaths=deaths))
            if deaths < LIVES:
                self._release(session, trial)
            else:
                failure = f"its worker died {deaths} times"
                self._note(session, trial_id, Attributes(failure=failure))
                trial.state = TrialState.FAIL
                trial.datetime_complete = datetime.now()
            return True

    def owns(self, trial_id: int, worker: Mapping[str, Any] | None) -> bool:
        """Whether the trial still runs under the claim `worker` (its user attribute)."""
        trial = self.get_trial(trial_id)
        return trial.state == TrialState.RUNNING and Attributes.of(trial).worker == worker

    def errors(self) -> AbstractContextManager[None]:
        """Turns the database's errors, while it lasts, into `MachineError`."""
        return translated(self.location)

    # What workers ask between two steps: no trial is built for it

    @patient
    def count(self, study_id: int) -> dict[TrialState, int]:
        """How many trials of the search are in which state."""
        with _create_scoped_session(self.scoped_session) as session:
            trials = self._trials_of(session, study_id, finals=False)
            states = models.TrialModel.state
            rows = (
                trials.with_entities(states, sa.func.count(models.TrialModel.trial_id))
                .group_by(states)
                .all()
            )
            return {row[0]: row[1] for row in rows}

    @patient
    def best_value(self, study_id: int) -> float | None:
        """The highest first value among complete trials of the search; None when there is none."""
        with _create_scoped_session(self.scoped_session) as session:
            best: float | None = (
                self._trials_of(session, study_id, finals=False)
                .join(models.TrialValueModel)
                .filter(
                    models.TrialModel.state == TrialState.COMPLETE,
                    models.TrialValueModel.objective == 0,
                )
                .with_entities(sa.func.max(models.TrialValueModel.value))
                .scalar()
            )
            return best

    @patient
    @light
    def advance_clock(self, study_id: int) -> float:
        """Seconds for which at least one worker was active; every worker calls it now and then.

        Each call adds the time since the last one of any worker, unless that was long ago.
        """
        with _create_scoped_session(self.scoped_session) as session:
            study = models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            attribute = models.StudyUserAttributeModel
            clock = attribute.find_by_study_and_key(study, "clock", session)
            now = time.time()
            if clock is None:
                clock = attribute(study_id=study_id, key="clock")
                session.add(clock)
                before = {"seconds": 0.0, "at": now}
            else:
                before = json.loads(_text(clock))
            gap = now - before["at"]
            seconds: float = before["seconds"] + (gap if 0 < gap < CLOCK_GAP else 0.0)
            clock.value_json = json.dumps({"seconds": seconds, "at": now})
            return seconds


def _text(attribute: Any) -> str:
    """The JSON of an attribute's row; that of None where there is no row."""
    return str(attribute.value_json) if attribute is not None else "null"
