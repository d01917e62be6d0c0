"""Where a study is kept: its URL, and the directories that go with it."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from search.config.secrecy import require_no_password
from search.errors import ConfigError
from search.storage.patience import is_sqlite, shown

STUDIES = Path("studies")

_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}


# --- where a study lives ---------------------------------------------------------------


def storage_url(flag: str | None, file: str | None, name: str) -> str:
    """The URL of a study's database: flag, else STUDY_STORAGE, else the study file's, else SQLite.

    Raises:
        ConfigError: the flag holds a password, which every user of the machine could read.
    """
    if flag is not None:
        require_no_password(flag)
        parse_url(flag)
        return flag
    return os.environ.get("STUDY_STORAGE") or file or f"sqlite:///{STUDIES}/{name}.db"


def places(flag: str | None) -> list[str]:
    """The databases in which studies may lie: the one that is named, else those of studies/."""
    named = flag or os.environ.get("STUDY_STORAGE")
    return [named] if named else [f"sqlite:///{path}" for path in sorted(STUDIES.glob("*.db"))]


def redacted(url: str) -> str:
    """`url` as it may be shown: without a password, or what may be one."""
    return shown(parse_url(url))


def run_directory(url: str, name: str) -> Path:
    """Where checkpoints, artifacts and logs of the study `name` lie."""
    target = parse_url(url)
    return (sqlite_path(target).parent if is_sqlite(target) else STUDIES) / "runs" / name


def is_shared(url: str) -> bool:
    """Whether workers on other machines can reach the database."""
    return not is_sqlite(parse_url(url))


def parse_url(url: str) -> URL:
    """The parts of a storage URL.

    Raises:
        ConfigError: it is none.
    """
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


def sqlite_path(url: URL) -> Path:
    """The file of an SQLite URL."""
    return Path(url.database or "")
