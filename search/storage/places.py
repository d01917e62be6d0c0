"""Where studies are kept: a database's URL, and the directories that go with it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from search.config.secrecy import HARMLESS, concealed, require_no_password
from search.errors import ConfigError, MachineError

STUDIES = "studies"

_SQLITE = b"SQLite format 3\0"  # how a database's file begins: sqlite.org/fileformat

_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}


@dataclass(frozen=True)
class Place:
    """A database for studies: a SQLite file, or a PostgreSQL or MySQL server.

    Its text, as f-strings and messages take it, holds no password, nor what may be one.
    """

    url: URL

    @classmethod
    def of(cls, place: str | Place) -> Place:
        """The place that a URL names.

        Raises:
            ConfigError: it names none that a study can live in.
        """
        if isinstance(place, Place):
            return place
        found = cls(_parsed(place))
        if found.backend not in ("sqlite", "postgresql", "mysql"):
            raise ConfigError(f"storage {found}: must be sqlite, postgresql or mysql")
        if found.backend == "sqlite" and found.url.database in (None, "", ":memory:"):
            raise ConfigError(f"storage {found}: must name a file, or nothing can be resumed")
        return found

    def __str__(self) -> str:
        return concealed(self.url.render_as_string(hide_password=True))

    @property
    def secret(self) -> str:
        """The URL as another process needs it, with its password."""
        return self.url.render_as_string(hide_password=False)

    @property
    def secrets(self) -> list[str]:
        """What no message may hold; the longest first, for one may be part of another."""
        asked = self.url.normalized_query.items()
        found = {value for key, values in asked if key.lower() not in HARMLESS for value in values}
        return sorted(filter(None, {*found, self.url.password}), key=len, reverse=True)

    @property
    def backend(self) -> str:
        """Its kind, without the driver: sqlite, postgresql or mysql."""
        return self.url.get_backend_name()

    @property
    def file(self) -> Path | None:
        """The SQLite file, None for a server."""
        return Path(self.url.database or "") if self.backend == "sqlite" else None

    @property
    def is_read_only(self) -> bool:
        """Whether there is a SQLite file, where this process cannot write."""
        file = self.file
        if file is None or not file.exists():
            return False
        return not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))

    @property
    def is_shared(self) -> bool:
        """Whether workers on other machines can reach the database."""
        return self.file is None

    def run_directory(self, name: str) -> Path:
        """Where checkpoints, artifacts and logs of the study `name` lie."""
        return (self.file.parent if self.file else home()) / "runs" / name


def home(file: Path | None = None) -> Path:
    """The folder for databases of studies that none names: that of the study file `file` (without
    one, this folder) if it is called studies, else studies/ in it.

    What lies in a bundle is proved, so that nothing is put there: its study file has its
    database here, too.
    """
    folder = file.parent if file else Path()
    if file and (folder / "metrics.json").exists():
        folder = Path()
    return folder if folder.resolve().name == STUDIES else folder / STUDIES


def require_no_database(path: Path) -> None:
    """Says so where somebody gave a database for a study file, or for a study's name.

    Raises:
        ConfigError: `path` is a SQLite file.
    """
    begins = b""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                begins = file.read(len(_SQLITE))
    if begins == _SQLITE:
        url = f"sqlite:///{path.absolute()}"
        raise ConfigError(
            f"{path}: is a database; name a study in it: NAME --storage {url}, or --from {url}:NAME"
        )


def find_place(
    flag: str | Place | None, told: str | None, name: str, file: Path | None = None
) -> Place:
    """Where the study `name` is kept: flag, else STUDY_STORAGE, else what its study file `file`
    has told, else SQLite in `home(file)`.

    Raises:
        ConfigError: the flag holds a password, which every user of the machine could read, or
            what was given is no URL of a database.
    """
    if isinstance(flag, str):
        require_no_password(flag)
    if flag is not None:
        return Place.of(flag)
    if named := os.environ.get("STUDY_STORAGE") or told:
        return Place.of(named)
    return _in_file(home(file) / f"{name}.db")


def places(flag: str | None) -> list[Place]:
    """The databases in which studies may lie: the one that is named, else those of `home()`.

    Raises:
        MachineError: that folder is there, and cannot be read.
    """
    if named := flag or os.environ.get("STUDY_STORAGE"):
        return [Place.of(named)]
    try:  # `glob` would find nothing in what it may not read
        return [_in_file(path) for path in sorted(home().iterdir()) if path.suffix == ".db"]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise MachineError(f"{home()}: {error.strerror}; name another with --storage") from None


def _in_file(path: Path) -> Place:
    return Place(URL.create("sqlite", database=str(path)))


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # SQLAlchemy's message would repeat the URL, with a password in it.
        raise ConfigError(
            "storage: not a URL; it must read sqlite:///path/to/file.db or "
            "postgresql://user@host/database"
        ) from None
    if url.get_backend_name() == "sqlite" and (url.host or url.username):
        raise ConfigError("storage: SQLite has no host; it must read sqlite:///path/to/file.db")
    # It would end the password there, and the rest would be shown as the host.
    ends = text.partition("://")[2].partition(":")[2].count("@")
    if ends > (url.password is not None) and url.get_backend_name() != "sqlite":
        raise ConfigError("storage: in a password, and behind it, an @ must read %40")
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
