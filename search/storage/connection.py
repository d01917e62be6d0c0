"""Optuna's relational storage on connections that wait for a database that is busy or away."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import AbstractContextManager, suppress
from functools import partial
from os.path import samestat
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage

from search.errors import MachineError
from search.storage import patience
from search.storage.patience import patient, translated
from search.storage.places import Place


class PatientStorage(RDBStorage):
    """A storage whose transactions hold their lock from the beginning, and are asked again
    when the connection drops.

    `heartbeat` and `grace` are in seconds.
    """

    def __init__(self, place: Place, *, heartbeat: int, grace: int) -> None:
        self.place = place
        self._thread = threading.local()
        self._given_up = False
        self._read_only = place.is_read_only
        # Optuna fills `{SCHEMA_VERSION}` into URLs; a brace in a password is none.
        template = place.secret.replace("{", "{{").replace("}", "}}")
        options: dict[str, Any] = {"pool_pre_ping": True}
        if place.file:
            options = {"connect_args": {"timeout": patience.PATIENCE, "isolation_level": None}}
        if place.file and self._read_only:
            options = {"creator": partial(_reader, place.file)}
        try:
            super().__init__(
                template, engine_kwargs=options, heartbeat_interval=heartbeat, grace_period=grace
            )
        except RuntimeError:  # tables of another Optuna: nobody will use the connection
            self.engine.dispose()
            raise
        self.url = str(place)
        self._opened = place.file.stat() if place.file else None
        if place.file:
            sa.event.listen(self.engine, "begin", self._begin)
        else:
            sa.event.listen(self.engine, "do_connect", self._connect_patiently)
            self.engine.dispose()  # of the connections that Optuna has made before

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.place})"

    def _begin(self, connection: sa.Connection) -> None:
        self._require_file()
        # A transaction that reads before it writes cannot upgrade its lock while another one
        # writes: it would claim a trial that is already claimed.  So every one is a writer.
        kind = getattr(self._thread, "kind", "ordinary")
        if kind == "reading" or self._read_only:
            connection.exec_driver_sql("BEGIN")
            return
        durable = "NORMAL" if kind == "light" else "FULL"
        connection.exec_driver_sql(f"PRAGMA synchronous = {durable}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def _require_file(self) -> None:
        # Who has a file open can write to it for ever after it was deleted: into nothing.
        if self.place.file is None or self._opened is None:
            return
        with suppress(FileNotFoundError):
            if samestat(self.place.file.stat(), self._opened):
                return
        raise MachineError(
            f"storage {self.place}: its study is gone: the file was deleted or replaced while "
            "this ran; launch it again"
        )

    def _connect_patiently(
        self, dialect: sa.Dialect, record: object, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        # Only a server that answered once is waited for: a wrong host name fails at once.
        deadline = time.monotonic() + (0 if self._given_up else patience.PATIENCE)
        while True:
            try:
                connection = dialect.connect(*args, **options)
                if self.place.backend == "postgresql":
                    _bound(connection)
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

    def errors(self) -> AbstractContextManager[None]:
        """Turns the database's errors, while it lasts, into `MachineError`."""
        return translated(self.place)


def _bound(connection: Any) -> None:
    """Lets the server end a transaction in which a worker is suspended: until then it keeps all
    others from its rows."""
    with connection.cursor() as cursor:
        milliseconds = round(1000 * patience.PATIENCE)
        cursor.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
    connection.commit()


def _reader(file: Path) -> sqlite3.Connection:
    """A connection that makes no file beside the database, as SQLite would to read its log."""
    log = file.with_name(f"{file.name}-wal")
    mode = "ro" if log.exists() and log.stat().st_size else "ro&immutable=1"
    return sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=patience.PATIENCE,
        isolation_level=None,
        check_same_thread=False,
    )
