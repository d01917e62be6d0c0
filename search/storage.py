"""URL → Optuna storage that several workers may share, checkpoints and artifacts.

What a study must not lose lies in its database, so everything that decides which trial may
start, and who works on it, happens here inside one database transaction: the count against
the budget, the claim of a waiting trial, the return of an abandoned one to the queue.
`StudyStorage` overrides non-public methods of Optuna's `RDBStorage` for that; its
tests run eight processes against a real SQLite file and a real PostgreSQL server.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import socket
import sqlite3
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
import psutil
import sqlalchemy as sa
from filelock import FileLock, Timeout
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    PendingRollbackError,
    SQLAlchemyError,
)

from search.config import RESUMABLE, ConfigError, MachineError, StudyConfig

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 60.0
"""Seconds for which a locked or a restarting database is waited for."""

HEARTBEAT = 15
"""Seconds between two signs of life of a running trial."""

GRACE = 240
"""Seconds of silence after which a trial counts as abandoned.

More than three times `PATIENCE`: Optuna dies in an AssertionError in the worker whose
live trial somebody else took.
"""

CLOCK_GAP = 30.0
"""Seconds without any worker's sign after which the budget of hours does not run on."""

DEATHS = 3
"""How many workers a trial may take down before it is failed instead of queued again."""

CHOSEN = "architecture"
"""The user attribute that the objective sets once all parameters are chosen."""

BATCH_DIVISOR = "batch_divisor"
"""The user attribute that divides the batch size of a trial that ran out of memory."""

STUDIES = Path("studies")
_NETWORK = "nfs nfs3 nfs4 cifs smb smb2 smb3 smbfs afs afpfs webdav davfs ceph lustre gpfs beegfs"
_NETWORK_FUSE = "sshfs glusterfs ceph s3fs gcsfuse rclone juicefs beegfs davfs2"
NETWORK_FILE_SYSTEMS = {*_NETWORK.split(), *(f"fuse.{kind}" for kind in _NETWORK_FUSE.split())}
_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)


class BudgetSpentError(Exception):
    """As many trials as the study may have are finished, running or waiting."""


class CheckpointError(ValueError):
    """A checkpoint is not what was saved."""


# --- where a study lives ---------------------------------------------------------------


def storage_url(flag: str | None, file: str | None, name: str) -> str:
    """The URL of a study's database: flag, else STUDY_STORAGE, else the study file's, else SQLite.

    Raises:
        ConfigError: the flag holds a password, which every user of the machine could read.
    """
    if flag is not None:
        if _parse(flag).password:
            raise ConfigError(
                "--storage: a password on the command line can be read by every user of this "
                "machine; put the URL into STUDY_STORAGE or the password into PGPASSFILE"
            )
        return flag
    return os.environ.get("STUDY_STORAGE") or file or f"sqlite:///{STUDIES}/{name}.db"


def redacted(url: str) -> str:
    """`url` as it may be shown: without a password."""
    return _shown(_parse(url))


def run_directory(url: str, name: str) -> Path:
    """Where checkpoints, artifacts and logs of the study `name` lie."""
    target = _parse(url)
    return (_sqlite_path(target).parent if _is_sqlite(target) else STUDIES) / "runs" / name


def _parse(url: str) -> URL:
    try:
        target = make_url(url)
    except (ArgumentError, ValueError):
        # SQLAlchemy's message would repeat the URL, with a password in it.
        raise ConfigError(
            "storage: not a URL; it must read sqlite:///path/to/file.db or "
            "postgresql://user@host/database"
        ) from None
    target = target.set(drivername=_DRIVERS.get(target.drivername, target.drivername))
    backend = target.get_backend_name()
    if backend not in ("sqlite", "postgresql", "mysql"):
        raise ConfigError(f"storage {_shown(target)}: must be sqlite, postgresql or mysql")
    if backend == "sqlite" and target.database in (None, "", ":memory:"):
        raise ConfigError(f"storage {_shown(target)}: must name a file, or nothing can be resumed")
    return target


def _shown(url: URL) -> str:
    hidden = {key: "***" for key in url.query if "pass" in key.lower()}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _sqlite_path(url: URL) -> Path:
    return Path(url.database or "")


# --- opening ---------------------------------------------------------------------------


def open_storage(url: str, *, heartbeat: int = HEARTBEAT, grace: int = GRACE) -> StudyStorage:
    """The storage at `url`, its tables made when they are missing.

    `heartbeat` and `grace` are in seconds; see `HEARTBEAT` and `GRACE`.

    Raises:
        ConfigError: the URL, its directory or its file is none a study can live in.
        MachineError: the database cannot be reached, lies on a network file system, or is corrupt.
    """
    target = _parse(url)
    _require_place(target)
    with _opening(target):
        return _connect(target, heartbeat, grace)


def _require_place(url: URL) -> None:
    """Looks before anything is written: a SQLite file is made by merely opening it."""
    if not _is_sqlite(url):
        return
    path = _sqlite_path(url)
    if path.parent == STUDIES:
        STUDIES.mkdir(exist_ok=True)
    if not path.parent.is_dir():
        raise ConfigError(f"storage {_shown(url)}: directory {path.parent} does not exist")
    kind = file_system(path, _mounts())
    if kind in NETWORK_FILE_SYSTEMS:
        raise MachineError(
            f"storage {_shown(url)}: {path.parent} is on a network file system ({kind}), where "
            "SQLite loses data; use a local directory, or PostgreSQL: --storage postgresql://…"
        )
    if path.exists():
        _require_sqlite(path, url)


def _require_sqlite(path: Path, url: URL) -> None:
    # Through SQLite alone: closing a file of one's own to this path would release every lock
    # that connections of this process hold on it, and another one would take the log away.
    if path.is_dir():
        raise ConfigError(f"storage {_shown(url)}: {path} is a directory")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:
        return  # busy, or not readable: the real connection waits, or says so
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise ConfigError(f"storage {_shown(url)}: {path} is not a SQLite database") from None
        found = str(error)
    if found != "ok":
        raise MachineError(
            f"storage {_shown(url)}: {path} is corrupt ({' '.join(found.split())}); it was left "
            "untouched: restore a copy, or name another --storage"
        )


def _mounts() -> dict[str, str]:
    return {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}


def file_system(path: Path, mounts: Mapping[str, str]) -> str:
    """The type of the file system that holds `path`; `mounts` maps mount points to types."""
    for parent in (path.resolve(), *path.resolve().parents):
        if str(parent) in mounts:
            return mounts[str(parent)]
    return ""


@contextmanager
def _exclusive(url: URL) -> Iterator[None]:
    """One process at a time: Optuna's own creation of tables and studies is a race."""
    if _is_sqlite(url):
        try:
            with FileLock(f"{_sqlite_path(url)}.lock", timeout=PATIENCE):
                yield
        except Timeout:
            raise MachineError(
                f"storage {_shown(url)}: another process has held {_sqlite_path(url)}.lock "
                f"for {PATIENCE:.0f} s"
            ) from None
        return
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    take, release = _ADVISORY[url.get_backend_name()]
    with engine.connect() as connection:
        connection.execute(sa.text(take))
        try:
            yield
        finally:
            connection.execute(sa.text(release))


_ADVISORY = {
    "postgresql": ("SELECT pg_advisory_lock(1127428916)", "SELECT pg_advisory_unlock(1127428916)"),
    "mysql": (f"SELECT GET_LOCK('c1c4', {PATIENCE:.0f})", "SELECT RELEASE_LOCK('c1c4')"),
}


def _connect(url: URL, heartbeat: int, grace: int) -> StudyStorage:
    if _is_sqlite(url):
        # WAL is a property of the file: set once, before several workers can be at it.
        with closing(sqlite3.connect(_sqlite_path(url), timeout=PATIENCE)) as database:
            database.execute("PRAGMA journal_mode=WAL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats, since 2021
        return StudyStorage(url, heartbeat=heartbeat, grace=grace)


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    """Turns the database's errors into one line without a password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        raise MachineError(f"storage {_shown(url)}: {_reason(error, url)}") from None


@contextmanager
def _opening(url: URL) -> Iterator[None]:
    """Likewise, while the driver may be missing and nobody else may make tables or studies."""
    try:
        with _translated(url), _exclusive(url):
            yield
    except (ImportError, NoSuchModuleError):
        extra = "mysql" if url.get_backend_name() == "mysql" else "postgresql"
        raise MachineError(
            f"storage {_shown(url)}: no driver for it; pip install 'c1c4-search[{extra}]'"
        ) from None


def _reason(error: BaseException, url: URL) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    text = str(getattr(cause, "orig", None) or cause or error)
    line = next(iter(text.splitlines()), type(error).__name__)
    return line.replace(url.password, "***") if url.password else line


# --- the storage -----------------------------------------------------------------------


def _patient(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Repeats `method`, which must bear that, when the connection drops in its transaction.

    Connections that drop between transactions are replaced by SQLAlchemy's pool.
    """

    @functools.wraps(method)
    def repeated(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return method(self, *args, **kwargs)
            except (StorageInternalError, SQLAlchemyError) as error:
                if not _dropped(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)

    return repeated


def _transactions(
    kind: str,
) -> Callable[[Callable[Concatenate[Any, P], T]], Callable[Concatenate[Any, P], T]]:
    """Makes the transactions of a method of that kind on SQLite.

    `reading` ones let writers pass.  `light` ones reach the disk together with the next
    ordinary one: after a power cut they may be missing, after anything less they are there.
    """

    def decorate(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
        @functools.wraps(method)
        def wrapped(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
            self._thread.kind = kind
            try:
                return method(self, *args, **kwargs)
            finally:
                self._thread.kind = "ordinary"

        return wrapped

    return decorate


_reading, _light = _transactions("reading"), _transactions("light")


def _dropped(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, PendingRollbackError):
        return True  # Optuna went on in a transaction whose connection had dropped
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


class StudyStorage(RDBStorage):
    """Optuna's relational storage, with claims and budgets inside its transactions.

    A trial that loses its worker returns to the queue under its own number, with its
    parameters, attributes and reports; its worker counts as lost when its process is gone
    (same machine) or its heartbeat has been silent for the grace period (any machine).

    `trials` bounds how many trials may be trained (complete or pruned), over all workers and
    resumes; None does not bound.
    """

    def __init__(self, url: URL, *, heartbeat: int, grace: int) -> None:
        self.location = url
        self.trials: int | None = None
        self._thread = threading.local()
        self._given_up = False
        # Optuna fills `{SCHEMA_VERSION}` into URLs; a brace in a password is none.
        template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        options: dict[str, Any] = {"pool_pre_ping": True}
        if _is_sqlite(url):
            options = {"connect_args": {"timeout": PATIENCE, "isolation_level": None}}
        super().__init__(
            template, engine_kwargs=options, heartbeat_interval=heartbeat, grace_period=grace
        )
        self.url = _shown(url)
        if _is_sqlite(url):
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
        deadline = time.monotonic() + (0 if self._given_up else PATIENCE)
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

    get_trial = _patient(RDBStorage.get_trial)
    get_study_directions = _patient(RDBStorage.get_study_directions)
    get_study_name_from_id = _patient(RDBStorage.get_study_name_from_id)
    get_study_system_attrs = _patient(RDBStorage.get_study_system_attrs)
    get_study_user_attrs = _patient(RDBStorage.get_study_user_attrs)
    set_study_system_attr = _patient(RDBStorage.set_study_system_attr)
    set_study_user_attr = _patient(RDBStorage.set_study_user_attr)
    set_trial_intermediate_value = _patient(RDBStorage.set_trial_intermediate_value)
    set_trial_system_attr = _patient(_light(RDBStorage.set_trial_system_attr))
    set_trial_user_attr = _patient(_light(RDBStorage.set_trial_user_attr))
    _get_best_trial_id = _patient(RDBStorage._get_best_trial_id)
    _set_trial_param = _patient(_light(RDBStorage._set_trial_param))
    _get_trials = _patient(_reading(RDBStorage._get_trials))
    _silent = _patient(RDBStorage._get_stale_trial_ids)

    @_light
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
            self._require_room(
                session, study_id, (*_TRAINED, TrialState.RUNNING, TrialState.WAITING)
            )
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if trial.state == TrialState.RUNNING:
            self._occupy(session, trial)
        return trial

    @_patient
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
            if trial.state != TrialState.WAITING:
                return False
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
        found = (
            session.query(sa.func.count(models.TrialModel.trial_id))
            .filter(models.TrialModel.study_id == study_id, models.TrialModel.state.in_(states))
            .scalar()
        )
        if found >= self.trials:
            raise BudgetSpentError(f"{found} of {self.trials} trials are taken")

    def _occupy(self, session: sa.orm.Session, trial: models.TrialModel) -> None:
        # The first heartbeat belongs to the claim: a trial without one is never stale to Optuna.
        session.query(models.TrialHeartbeatModel).filter_by(trial_id=trial.trial_id).delete()
        session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id))
        worker = {**_identity(), "claim": uuid.uuid4().hex[:8]}
        self._set_user_attribute(session, int(trial.trial_id), "worker", worker)

    def _set_user_attribute(
        self, session: sa.orm.Session, trial_id: int, key: str, value: object
    ) -> None:
        self._set_trial_attr_without_commit(
            session, models.TrialUserAttributeModel, trial_id, key, value
        )

    # What happens to a trial that nobody works on any more

    @_patient
    def requeue(self, trial_id: int, worker: Mapping[str, Any] | None) -> bool:
        """Returns a trial to the queue as it is; False unless it runs under the claim `worker`."""
        with _create_scoped_session(self.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            owner = models.TrialUserAttributeModel.find_by_trial_and_key(trial, "worker", session)
            if trial.state != TrialState.RUNNING or json.loads(_text(owner)) != worker:
                return False
            self._release(session, trial)
            return True

    def _release(self, session: sa.orm.Session, trial: models.TrialModel) -> None:
        trial.state = TrialState.WAITING
        session.query(models.TrialHeartbeatModel).filter_by(trial_id=trial.trial_id).delete()
        if models.TrialUserAttributeModel.find_by_trial_and_key(trial, CHOSEN, session) is None:
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
            if trial_id in silent or _is_gone(json.loads(worker) or {})
        ]
        return sum(self._recover(trial_id, worker) for trial_id, worker in lost)

    @_patient
    def _running(self, study_id: int) -> list[tuple[int, str]]:
        attribute = models.TrialUserAttributeModel
        with _create_scoped_session(self.scoped_session) as session:
            rows = (
                session.query(models.TrialModel.trial_id, attribute.value_json)
                .outerjoin(
                    attribute,
                    sa.and_(
                        attribute.trial_id == models.TrialModel.trial_id, attribute.key == "worker"
                    ),
                )
                .filter(
                    models.TrialModel.study_id == study_id,
                    models.TrialModel.state == TrialState.RUNNING,
                )
                .all()
            )
            return [(row[0], row[1] or "null") for row in rows]

    @_patient
    def _recover(self, trial_id: int, worker: str) -> bool:
        with _create_scoped_session(self.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            owner = models.TrialUserAttributeModel.find_by_trial_and_key(trial, "worker", session)
            if trial.state != TrialState.RUNNING or _text(owner) != worker:
                return False  # another worker was faster
            known = models.TrialUserAttributeModel.find_by_trial_and_key(trial, "deaths", session)
            deaths = 1 + (json.loads(_text(known)) or 0)
            self._set_user_attribute(session, trial_id, "deaths", deaths)
            if deaths < DEATHS:
                self._release(session, trial)
            else:
                self._set_user_attribute(
                    session, trial_id, "failure", f"its worker died {deaths} times"
                )
                trial.state = TrialState.FAIL
                trial.datetime_complete = datetime.now()
            return True

    def owns(self, trial_id: int, worker: Mapping[str, Any] | None) -> bool:
        """Whether the trial still runs under the claim `worker` (its user attribute)."""
        trial = self.get_trial(trial_id)
        return trial.state == TrialState.RUNNING and trial.user_attrs.get("worker") == worker

    def errors(self) -> AbstractContextManager[None]:
        """Turns the database's errors, while it lasts, into `MachineError`."""
        return _translated(self.location)

    # What workers ask between two steps: no trial is built for it

    @_patient
    def count(self, study_id: int) -> dict[TrialState, int]:
        """How many trials of the study are in which state."""
        with _create_scoped_session(self.scoped_session) as session:
            rows = (
                session.query(models.TrialModel.state, sa.func.count(models.TrialModel.trial_id))
                .filter(models.TrialModel.study_id == study_id)
                .group_by(models.TrialModel.state)
                .all()
            )
            return {row[0]: row[1] for row in rows}

    @_patient
    def best_value(self, study_id: int) -> float | None:
        """The highest first value among complete trials; None when there is none."""
        with _create_scoped_session(self.scoped_session) as session:
            best: float | None = (
                session.query(sa.func.max(models.TrialValueModel.value))
                .join(models.TrialModel)
                .filter(
                    models.TrialModel.study_id == study_id,
                    models.TrialModel.state == TrialState.COMPLETE,
                    models.TrialValueModel.objective == 0,
                )
                .scalar()
            )
            return best

    @_patient
    @_light
    def advance_clock(self, study_id: int) -> float:
        """Seconds for which at least one worker was active; every worker calls it now and then.

        Each call adds the time since the last one of any worker, unless that was long ago.
        """
        with _create_scoped_session(self.scoped_session) as session:
            study = models.StudyModel.find_or_raise_by_id(study_id, session)
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


def _identity() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "pids": _pid_space()}


def _pid_space() -> str:
    """Names the set of processes in which a process id means something.

    Containers share a host's boot id, virtual machines cloned from one image their names, so
    both count, and the namespace of process ids where there are such.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, space = str(round(psutil.boot_time(), -2)), ""
    return hashlib.sha256(f"{socket.gethostname()} {boot} {space}".encode()).hexdigest()[:12]


def _is_gone(worker: Mapping[str, Any]) -> bool:
    """Whether the worker's process certainly lives no more; False where nobody here can know."""
    if worker.get("pids") != _pid_space():
        return False
    try:
        return psutil.Process(int(worker["pid"])).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- studies ---------------------------------------------------------------------------


def create_or_resume(
    config: StudyConfig, url: str, *, heartbeat: int = HEARTBEAT, grace: int = GRACE
) -> optuna.Study:
    """The study that `config` names, made when it is missing; safe from many processes at once.

    The caller sets `study.sampler` and `study.pruner`.

    Raises:
        ConfigError: the study exists and searches something else; names the key that differs.
        MachineError: see `open_storage`.
    """
    target = _parse(url)
    _require_place(target)
    with _opening(target):
        storage = _connect(target, heartbeat, grace)
        try:
            study = optuna.load_study(study_name=config.study.name, storage=storage)
        except KeyError:
            study = _create(config, storage)
        else:
            _require_same_search(config, study)
        # Worker processes read target and budget from here; a resume may change them.
        study.set_user_attr("config", _content(config))
        study.set_user_attr("search_hash", config.search_hash)
    storage.trials = config.study.trials
    return study


def _create(config: StudyConfig, storage: StudyStorage) -> optuna.Study:
    goals = config.study.objectives
    study = optuna.create_study(
        study_name=config.study.name,
        storage=storage,
        directions=["maximize" if goal == "accuracy" else "minimize" for goal in goals],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # names of metrics, since 2023
        study.set_metric_names(list(goals))
    return study


def load_study(
    name: str, url: str, *, heartbeat: int = HEARTBEAT, grace: int = GRACE
) -> optuna.Study:
    """The study `name`; nothing is made.

    Raises:
        ConfigError: there is no such study at `url`.
        MachineError: see `open_storage`.
    """
    target = _parse(url)
    if _is_sqlite(target) and not _sqlite_path(target).is_file():
        raise ConfigError(f"no study {name}: {_shown(target)} does not exist; launch it first")
    _require_place(target)
    with _opening(target):
        storage = _connect(target, heartbeat, grace)
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            there = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
            raise ConfigError(f"no study {name} at {_shown(target)}; there are: {there}") from None
        storage.trials = study_config(study).study.trials
    return study


def study_config(study: optuna.Study) -> StudyConfig:
    """The configuration that a study was launched with.

    Raises:
        ConfigError: the study was not made by `create_or_resume`.
    """
    try:
        return StudyConfig.model_validate(study.user_attrs["config"])
    except (KeyError, ValueError):
        raise ConfigError(f"study {study.study_name} was not made by this program") from None


def study_storage(study: optuna.Study) -> StudyStorage:
    """The `StudyStorage` beneath Optuna's cache."""
    storage = getattr(study._storage, "_backend", study._storage)
    if not isinstance(storage, StudyStorage):
        raise TypeError(f"study {study.study_name} must lie in a StudyStorage, but got {storage}")
    return storage


def _content(config: StudyConfig) -> dict[str, Any]:
    content: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    return content


def _require_same_search(config: StudyConfig, study: optuna.Study) -> None:
    # Validated again, so that keys that are new since then stand at their defaults.
    before, now = _searched(study_config(study)), _searched(config)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{key}: study {study.study_name} has {before.get(key)}, this asks for "
                f"{now.get(key)}; what is searched cannot change on resume: "
                "restore it, or give the study another name"
            )


def _searched(config: StudyConfig) -> dict[str, Any]:
    """All that trials compare, as dotted keys."""
    content = _content(config)
    for key in RESUMABLE:
        del content["study"][key]
    del content["data"]["root"]
    return dict(_flat(content, ""))


def _flat(content: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, content


# --- checkpoints -----------------------------------------------------------------------

_CHECKPOINT_MAGIC = b"C1C4-CHECKPOINT\n"


def checkpoint_path(runs: Path, trial: Trial | FrozenTrial) -> Path:
    """Where the trial's checkpoint lies: a trial keeps its number when it is queued again."""
    # Half a batch takes other steps: that training cannot go on from the whole one's.
    half = "-half" if BATCH_DIVISOR in trial.user_attrs else ""
    return runs / f"trial-{trial.number:06d}{half}.checkpoint"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replaces the checkpoint at `path` at once, or leaves the old one as it is.

    `state` holds tensors, numbers, strings and containers of them.

    Raises:
        MachineError: it could not be written; names the path.
    """
    import torch  # seconds, which a command that only reads a study need not wait for

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getbuffer()
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(_CHECKPOINT_MAGIC + hashlib.sha256(payload).digest())
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MachineError(f"{path}: {error.strerror}; the trial is queued again") from error


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state that was saved at `path`, on the CPU; None when there is none.

    Raises:
        CheckpointError: it is not what was saved; names the path.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    start = len(_CHECKPOINT_MAGIC) + hashlib.sha256().digest_size
    digest, payload = content[len(_CHECKPOINT_MAGIC) : start], content[start:]
    if hashlib.sha256(payload).digest() != digest or not content.startswith(_CHECKPOINT_MAGIC):
        raise CheckpointError(f"{path}: corrupt checkpoint (SHA-256 differs)")
    import torch

    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


# --- artifacts -------------------------------------------------------------------------


def artifact_store(runs: Path) -> FileSystemArtifactStore:
    """The files that the dashboard shows beside trials."""
    directory = runs / "artifacts"
    directory.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(directory)


def attach(
    target: Trial | FrozenTrial | optuna.Study, path: Path, store: FileSystemArtifactStore
) -> str:
    """Attaches the file at `path` to a trial or study; answers with the artifact's id."""
    return upload_artifact(study_or_trial=target, file_path=str(path), artifact_store=store)
