from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

import search.storage.opening
from search.errors import ConfigError, MachineError, NoStudyError
from search.storage.internals import models
from search.storage.opening import file_system, is_empty, open_storage, opened
from search.storage.places import Place
from search.storage.studies import (
    create_or_resume,
    load_study,
    require_resumable,
    study_names,
    study_storage,
)
from tests.processes import created, study_file


@pytest.mark.parametrize(
    ("given_url", "reason"),
    [
        ("nonsense", "not a URL"),
        ("sqlite:///{tmp}/missing/x.db", "missing does not exist"),
        ("sqlite:///{tmp}/text", "not a SQLite database"),
        ("sqlite:///{tmp}", "is a directory"),
        ("sqlite:///{tmp}/pipe", "is a pipe or a device"),
        ("sqlite:////dev/zero", "is a pipe or a device"),
        ("sqlite://", "must name a file"),
        ("redis://host/1", "must be sqlite, postgresql or mysql"),
    ],
)
def test_a_bad_place_is_named_and_nothing_is_made(
    tmp_path: Path, given_url: str, reason: str
) -> None:
    (tmp_path / "text").write_text("no database at all\n")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=reason):
        create_or_resume(study_file(), given_url.format(tmp=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "text"}


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


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path, url = tmp_path / "other.db", f"sqlite:///{tmp_path}/other.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other (id INTEGER)")
    before = path.read_bytes()
    attempts: list[Callable[[], object]] = [
        lambda: create_or_resume(study_file(), url),
        lambda: load_study("toy", url),
        lambda: study_names(Place.of(url)),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match=r"is a database of another program \(table other\)"):
            attempt()
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["other.db"]


FOREIGN = {
    "a table of its own": "CREATE TABLE other (id INTEGER)",
    "a table called studies": "CREATE TABLE studies (id INTEGER, title TEXT)",
    "all of Optuna's names": "; ".join(
        f"CREATE TABLE {name} (id INTEGER)" for name in models.BaseModel.metadata.tables
    ),
    "migrations of its own": "CREATE TABLE alembic_version (version_num TEXT)",
}


@pytest.mark.parametrize("made", FOREIGN.values(), ids=FOREIGN)
def test_among_the_tables_of_another_program_nothing_is_made(url: str, made: str) -> None:
    engine = sa.create_engine(Place.of(url).url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in made.split("; "):
            connection.exec_driver_sql(statement)
        before = sa.inspect(connection).get_multi_columns()
    attempts: list[Callable[[], object]] = [
        lambda: create_or_resume(study_file(), url),
        lambda: load_study("toy", url),
        lambda: study_names(Place.of(url)),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match="is a database of another program"):
            attempt()
    with engine.begin() as connection:
        assert repr(sa.inspect(connection).get_multi_columns()) == repr(before)


def test_who_only_reads_makes_no_tables(url: str) -> None:
    place = Place.of(url)
    if place.file:
        place.file.touch()
    with pytest.raises(NoStudyError, match="is empty; launch it first"):
        load_study("toy", url)
    assert not study_names(place)
    require_resumable(study_file(), place)
    assert is_empty(place)
    created(url)
    assert not is_empty(place)


def _finds_no_study(place: Place) -> None:
    with pytest.raises(NoStudyError, match="launch it first"):
        load_study("toy", place)


@pytest.mark.parametrize(
    "read",
    [
        _finds_no_study,
        study_names,
        lambda place: require_resumable(study_file(), place),
    ],
)
def test_who_waits_to_read_what_is_deleted_meanwhile_makes_none(
    read: Callable[[Place], object], sqlite: str, tmp_path: Path
) -> None:
    created(sqlite)
    place = Place.of(sqlite)
    with opened(place), ThreadPoolExecutor() as pool:
        waits = pool.submit(read, place)
        time.sleep(0.3)  # it has seen the file
        assert not waits.done()
        for file in tmp_path.glob("*.db*"):
            file.unlink()
    waits.result()
    assert not [*tmp_path.glob("*.db")]


def test_a_list_of_what_is_not_there_makes_no_file(tmp_path: Path, sqlite: str) -> None:
    assert not study_names(Place.of(sqlite))
    assert not list(tmp_path.iterdir())


def test_the_table_of_another_program_does_not_part_a_study_from_its_own(url: str) -> None:
    storage = study_storage(created(url))
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE other (id INTEGER)")
    storage.engine.dispose()
    assert load_study("toy", url).study_name == "toy"


def test_tables_of_another_optuna_are_told_as_that(url: str) -> None:
    storage = study_storage(created(url))
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE version_info ADD COLUMN made_by TEXT")
        connection.exec_driver_sql("ALTER TABLE studies ADD COLUMN owner TEXT")
        connection.exec_driver_sql("UPDATE version_info SET schema_version = 99")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v9.0.0.a'")
    with pytest.raises(MachineError, match=r"tables are not those of Optuna 5\.0"):
        load_study("toy", url)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_sqlite_refuses_network_file_systems(
    kind: str,
    sqlite: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mounts = {"/": "ext4", str(tmp_path): kind}
    monkeypatch.setattr(search.storage.opening, "_mounts", lambda: mounts)
    refused = pytest.raises(MachineError, match=rf"{kind}.*PostgreSQL")
    with refused, open_storage(Place.of(sqlite)):
        pass
    assert not list(tmp_path.iterdir())


def test_the_innermost_mount_holds_a_path() -> None:
    mounts = {"/": "ext4", "/net": "nfs", "/net/local": "xfs"}
    assert file_system(Path("/net/local/a.db"), mounts) == "xfs"
    assert file_system(Path("/net/other/a.db"), mounts) == "nfs"
    assert file_system(Path("/network/a.db"), mounts) == "ext4"


@pytest.mark.skipif(sys.platform != "linux", reason="other programs called df tell less")
@pytest.mark.parametrize("place", ["/", "/proc/self", "/dev/shm", str(Path(__file__).parent)])
def test_this_machines_mounts_are_read(place: str) -> None:
    asked = ["df", "--output=fstype", place]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    told = done.stdout.split()[-1]
    assert file_system(Path(place), search.storage.opening._mounts()) == told


def test_sqlite_is_safe_for_several_workers(sqlite: str) -> None:
    with open_storage(Place.of(sqlite)) as storage, storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # full
