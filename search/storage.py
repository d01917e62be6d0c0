"""URL → Optuna storage, studies in it, checkpoints and artifacts."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import psutil
import sqlalchemy as sa
from filelock import FileLock, Timeout
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, Trial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from search import database
from search.config import (
    RESUMABLE,
    ConfigError,
    MachineError,
    StudyConfig,
    make_private,
    private,
    require_no_password,
)
from search.database import StudyStorage, is_sqlite, shown, translated

HEARTBEAT = 15
"""Seconds between two signs of life of a running trial."""

GRACE = 240
"""Seconds of silence after which a trial counts as abandoned.

Several times the patience with databases: Optuna dies in an AssertionError in the worker
whose live trial somebody else took.
"""

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


class CheckpointError(ValueError):
    """A checkpoint is not what was saved."""


# --- where a study lives ---------------------------------------------------------------


def storage_url(flag: str | None, file: str | None, name: str) -> str:
    """The URL of a study's database: flag, else STUDY_STORAGE, else the study file's, else SQLite.

    Raises:
        ConfigError: the flag holds a password, which every user of the machine could read.
    """
    if flag is not None:
        require_no_password(flag)
        _parse(flag)
        return flag
    return os.environ.get("STUDY_STORAGE") or file or f"sqlite:///{STUDIES}/{name}.db"


def redacted(url: str) -> str:
    """`url` as it may be shown: without a password, or what may be one."""
    return shown(_parse(url))


def run_directory(url: str, name: str) -> Path:
    """Where checkpoints, artifacts and logs of the study `name` lie."""
    target = _parse(url)
    return (_sqlite_path(target).parent if is_sqlite(target) else STUDIES) / "runs" / name


def is_shared(url: str) -> bool:
    """Whether workers on other machines can reach the database."""
    return not is_sqlite(_parse(url))


def _parse(url: str) -> URL:
    try:
        target = make_url(url)
    except (ArgumentError, ValueError):
        # SQLAlchemy's message would repeat the URL, with a password in it.
        raise ConfigError(
            "storage: not a URL; it must read sqlite:///path/to/file.db or "
            "postgresql://user@host/database"
        ) from None
    # It would end the password there, and the rest would be shown as the host.
    ends = url.partition("://")[2].partition(":")[2].count("@")
    if ends > (target.password is not None) and not is_sqlite(target):
        raise ConfigError("storage: in a password, and behind it, an @ must read %40")
    target = target.set(drivername=_DRIVERS.get(target.drivername, target.drivername))
    backend = target.get_backend_name()
    if backend not in ("sqlite", "postgresql", "mysql"):
        raise ConfigError(f"storage {shown(target)}: must be sqlite, postgresql or mysql")
    if backend == "sqlite" and target.database in (None, "", ":memory:"):
        raise ConfigError(f"storage {shown(target)}: must name a file, or nothing can be resumed")
    return target


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
    if not is_sqlite(url):
        return
    path = _sqlite_path(url)
    if not path.parent.is_dir() and path.parent != STUDIES:
        raise ConfigError(f"storage {shown(url)}: directory {path.parent} does not exist")
    kind = file_system(path, _mounts())
    if kind in NETWORK_FILE_SYSTEMS:
        raise MachineError(
            f"storage {shown(url)}: {path.parent} is on a network file system ({kind}), where "
            "SQLite loses data; use a local directory, or PostgreSQL: --storage postgresql://…"
        )
    if path.exists():
        _require_sqlite(path, url)


def _require_sqlite(path: Path, url: URL) -> None:
    # Through SQLite alone: closing a file of one's own to this path would release every lock
    # that connections of this process hold on it, and another one would take the log away.
    if path.is_dir():
        raise ConfigError(f"storage {shown(url)}: {path} is a directory")
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:
        return  # busy, or not readable: the real connection waits, or says so
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise ConfigError(f"storage {shown(url)}: {path} is not a SQLite database") from None
        found = str(error)
    if found != "ok":
        raise MachineError(
            f"storage {shown(url)}: {path} is corrupt ({' '.join(found.split())}); it was left "
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
    if is_sqlite(url):
        with _locked(Path(f"{_sqlite_path(url)}.lock"), url):
            yield
        return
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    take, release = _ADVISORY[url.get_backend_name()]
    with engine.connect() as connection:
        connection.execute(sa.text(take))
        try:
            yield
        finally:
            connection.execute(sa.text(release))


@contextmanager
def _locked(path: Path, url: URL) -> Iterator[None]:
    try:
        if path.parent == STUDIES:
            make_private(STUDIES)
        # filelock would wait for permission as for another process
        open(path, "ab", opener=private).close()
    except OSError as error:
        raise MachineError(f"storage {shown(url)}: {path}: {error.strerror}") from None
    try:
        with FileLock(path, timeout=database.PATIENCE):
            yield
    except Timeout:
        raise MachineError(
            f"storage {shown(url)}: another process has held {path} for {database.PATIENCE:.0f} s"
        ) from None


_ADVISORY = {
    "postgresql": ("SELECT pg_advisory_lock(1127428916)", "SELECT pg_advisory_unlock(1127428916)"),
    "mysql": (f"SELECT GET_LOCK('c1c4', {database.PATIENCE:.0f})", "SELECT RELEASE_LOCK('c1c4')"),
}


def _connect(url: URL, heartbeat: int, grace: int) -> StudyStorage:
    if is_sqlite(url):
        with suppress(OSError):  # it is there; else SQLite, whose log has its mode, says why not
            open(_sqlite_path(url), "xb", opener=private).close()
        # WAL is a property of the file: set once, before several workers can be at it.
        with closing(sqlite3.connect(_sqlite_path(url), timeout=database.PATIENCE)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats, since 2021
        return StudyStorage(url, heartbeat=heartbeat, grace=grace)


@contextmanager
def _opening(url: URL) -> Iterator[None]:
    """Likewise, while the driver may be missing and nobody else may make tables or studies."""
    try:
        with translated(url), _exclusive(url):
            yield
    except (ImportError, NoSuchModuleError):
        extra = "mysql" if url.get_backend_name() == "mysql" else "postgresql"
        raise MachineError(
            f"storage {shown(url)}: no driver for it; pip install 'c1c4-search[{extra}]'"
        ) from None


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


def require_resumable(config: StudyConfig, url: str) -> None:
    """Raises what `create_or_resume` would, before anything is made."""
    target = _parse(url)
    _require_place(target)
    if is_sqlite(target) and not _sqlite_path(target).exists():
        return
    with _opening(target):
        storage = _connect(target, HEARTBEAT, GRACE)
        if config.study.name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=config.study.name, storage=storage)
            _require_same_search(config, study)


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
    if is_sqlite(target) and not _sqlite_path(target).exists():
        raise ConfigError(f"no study {name}: {shown(target)} does not exist; launch it first")
    _require_place(target)
    with _opening(target):
        storage = _connect(target, heartbeat, grace)
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            there = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
            raise ConfigError(f"no study {name} at {shown(target)}; there are: {there}") from None
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
        make_private(path.parent)
        with open(temporary, "wb", opener=private) as file:
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


class _PrivateStore(FileSystemArtifactStore):
    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        with open(self._get_filepath(artifact_id), "wb", opener=private) as file:
            shutil.copyfileobj(content_body, file)


def artifact_store(runs: Path) -> FileSystemArtifactStore:
    """The files that the dashboard shows beside trials."""
    directory = runs / "artifacts"
    make_private(directory)
    return _PrivateStore(directory)


def attach(
    target: Trial | FrozenTrial | optuna.Study, path: Path, store: FileSystemArtifactStore
) -> str:
    """Attaches the file at `path` to a trial or study; answers with the artifact's id."""
    return upload_artifact(study_or_trial=target, file_path=str(path), artifact_store=store)
