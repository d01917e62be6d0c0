"""Opening a storage: the place is fit for it, one process at a time makes its tables."""

from __future__ import annotations

import sqlite3
import stat
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import optuna
import psutil
import sqlalchemy as sa
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from sqlalchemy.exc import NoSuchModuleError

from search.config.private import make_private, private
from search.errors import ConfigError, MachineError
from search.storage.database import StudyStorage
from search.storage.internals import models
from search.storage.patience import PATIENCE, translated
from search.storage.places import STUDIES, Place

HEARTBEAT = 15
"""Seconds between two signs of life of a running trial."""

GRACE = 240
"""Seconds of silence after which a trial counts as abandoned.

Several times the patience with databases: Optuna dies in an AssertionError in the worker
whose live trial somebody else took.
"""

_NETWORK = "nfs nfs3 nfs4 cifs smb smb2 smb3 smbfs afs afpfs webdav davfs ceph lustre gpfs beegfs"
_NETWORK_FUSE = "sshfs glusterfs ceph s3fs gcsfuse rclone juicefs beegfs davfs2"
NETWORK_FILE_SYSTEMS = {*_NETWORK.split(), *(f"fuse.{kind}" for kind in _NETWORK_FUSE.split())}


Columns = dict[str, set[str]]  # by table


class ForeignDatabaseError(ConfigError):
    """The database is there, and belongs to another program."""


# --- opening ---------------------------------------------------------------------------


@contextmanager
def open_storage(
    place: Place, heartbeat: int = HEARTBEAT, grace: int = GRACE
) -> Iterator[StudyStorage]:
    """The storage at `place`, its tables made when they are missing, while nobody else makes or
    deletes studies.

    Raises:
        ConfigError: the place, its directory or its file is none a study can live in.
        MachineError: the database cannot be reached, lies on a network file system, or is corrupt.
    """
    require_fit(place)
    with opened(place):
        yield connect(place, heartbeat, grace)


@contextmanager
def existing(
    place: Place, heartbeat: int = HEARTBEAT, grace: int = GRACE
) -> Iterator[StudyStorage | None]:
    """Likewise, but None where nothing is there: who only reads makes none."""
    if is_empty(place):
        yield None
        return
    require_fit(place)
    with opened(place):
        deleted = place.file is not None and is_empty(place)  # while the lock was waited for
        yield None if deleted else connect(place, heartbeat, grace)


def is_empty(place: Place) -> bool:
    """Whether nothing has been made at `place` yet, neither a file nor tables: who only reads
    makes none.

    Raises:
        MachineError: the server cannot be reached.
    """
    file = place.file
    if file is None:
        with opened(place):
            return not _on_server(place)
    return not file.exists() or (file.is_file() and not file.stat().st_size)


def require_fit(place: Place) -> None:
    """Looks before anything is written: a SQLite file is made by merely opening it."""
    path = place.file
    if path is None:
        return
    above = path.parent.parent if path.parent.name == STUDIES else path.parent
    if not above.is_dir():
        raise ConfigError(f"storage {place}: directory {above} does not exist")
    kind = file_system(path, _mounts())
    if kind in NETWORK_FILE_SYSTEMS:
        raise MachineError(
            f"storage {place}: {path.parent} is on a network file system ({kind}), where "
            "SQLite loses data; use a local directory, or PostgreSQL: --storage postgresql://…"
        )
    if path.exists():
        _require_sqlite(path, place)


def require_writable(place: Place) -> None:
    """Raises a `MachineError` where the database is there, and is for reading only."""
    if place.is_read_only:
        raise MachineError(
            f"storage {place}: can be read here, and not written; copy it to another place, "
            "and name that with --storage"
        )


def _require_sqlite(path: Path, place: Place) -> None:
    if path.is_dir():
        raise ConfigError(f"storage {place}: {path} is a directory")
    if not path.is_file():  # SQLite would wait for a pipe's other end, for ever
        raise ConfigError(f"storage {place}: {path} is a pipe or a device; name a file")
    try:
        found, tables = _looked_into(path)
    except sqlite3.OperationalError:
        return  # busy, or not readable: the real connection waits, or says so
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise ConfigError(f"storage {place}: {path} is not a SQLite database") from None
        found, tables = str(error), {}
    if found != "ok":
        raise MachineError(
            f"storage {place}: {path} is corrupt ({' '.join(found.split())}); it was left "
            "untouched: restore a copy, or name another --storage"
        )
    _require_optunas(tables, place)


def _looked_into(path: Path) -> tuple[str, Columns]:
    """What SQLite says of the file, `ok` where it is whole, and its tables."""
    # Through SQLite alone: closing a file of one's own to this path would release every lock
    # that connections of this process hold on it, and another one would take the log away.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        found: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        tables: Columns = defaultdict(set)
        for table, column in connection.execute(
            "SELECT t.name, c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c "
            "WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
        ):
            tables[table].add(column)
        return found, tables


def _require_optunas(tables: Columns, place: Place) -> None:
    """Nothing is made among the tables of another program, whatever their names are.

    What Optuna has versioned is left to Optuna, which knows its other versions.
    """
    own: Columns = {
        name: set(table.c.keys()) for name, table in models.BaseModel.metadata.tables.items()
    }
    if tables.get("version_info", set()) >= own["version_info"]:
        return
    others = sorted(name for name in tables if tables[name] != own.get(name))
    if others:
        raise ForeignDatabaseError(
            f"storage {place}: is a database of another program (table {others[0]}); "
            "name another --storage"
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
def _exclusive(place: Place) -> Iterator[None]:
    """One process at a time: Optuna's own creation of tables and studies is a race."""
    if place.is_read_only:
        yield  # nobody makes anything there
        return
    if place.file:
        with _locked(Path(f"{place.file}.lock"), place):
            yield
        return
    engine = sa.create_engine(place.url, poolclass=sa.NullPool)
    take, release = _ADVISORY[place.backend]
    with engine.connect() as connection:
        connection.execute(sa.text(take))
        try:
            yield
        finally:
            connection.execute(sa.text(release))


@contextmanager
def _locked(path: Path, place: Place) -> Iterator[None]:
    try:
        if path.parent.name == STUDIES:
            make_private(path.parent)
        # filelock would wait for permission as for another process
        open(path, "ab", opener=private).close()
    except OSError as error:
        raise MachineError(
            f"storage {place}: {path}: {error.strerror}; name another place with --storage"
        ) from None
    try:
        # older releases of filelock would give it the mode of any new file
        with FileLock(path, timeout=PATIENCE, mode=stat.S_IMODE(path.stat().st_mode)):
            yield
    except Timeout:
        raise MachineError(
            f"storage {place}: another process has held {path} for {PATIENCE:.0f} s"
        ) from None


_ADVISORY = {
    "postgresql": ("SELECT pg_advisory_lock(1127428916)", "SELECT pg_advisory_unlock(1127428916)"),
    "mysql": (f"SELECT GET_LOCK('c1c4', {PATIENCE:.0f})", "SELECT RELEASE_LOCK('c1c4')"),
}


def connect(place: Place, heartbeat: int, grace: int) -> StudyStorage:
    """The storage at `place`, whose schema is there or is made."""
    if place.file and not place.is_read_only:
        with suppress(OSError):  # it is there; else SQLite, whose log has its mode, says why not
            open(place.file, "xb", opener=private).close()
        # WAL is a property of the file: set once, before several workers can be at it.
        with closing(sqlite3.connect(place.file, timeout=PATIENCE)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    if place.file is None:
        _require_optunas(_on_server(place), place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats, since 2021
        try:
            return StudyStorage(place, heartbeat=heartbeat, grace=grace)
        except RuntimeError:  # Optuna asks to upgrade by its own command line
            raise MachineError(
                f"storage {place}: its tables are not those of Optuna {optuna.__version__}; "
                "install the version that made them, or name another --storage"
            ) from None


def _on_server(place: Place) -> Columns:
    with sa.create_engine(place.url, poolclass=sa.NullPool).connect() as connection:
        found = sa.inspect(connection).get_multi_columns()
        return {
            name: {column["name"] for column in columns} for (_, name), columns in found.items()
        }


@contextmanager
def opened(place: Place) -> Iterator[None]:
    """Likewise, while the driver may be missing and nobody else may make tables or studies."""
    try:
        with translated(place), _exclusive(place):
            yield
    except (ImportError, NoSuchModuleError):
        extra = "mysql" if place.backend == "mysql" else "postgresql"
        raise MachineError(
            f"storage {place}: no driver for it; pip install 'c1c4-search[{extra}]'"
        ) from None
