"""Fixtures: a fresh database of each kind, on a real server.

A MySQL server does not come as a wheel.  `STUDY_TEST_MYSQL=mysql://user:password@host/fresh`
names one on which all tests run as well; they drop and make its database of that name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.processes import running_postgresql

MYSQL = os.environ.get("STUDY_TEST_MYSQL", "")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    with running_postgresql() as server:
        yield server


KINDS = ["sqlite", "postgresql", *(["mysql"] if MYSQL else [])]


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db"
        return
    if request.param == "mysql":
        yield _fresh_mysql()
        return
    server = request.getfixturevalue("postgresql")
    server.psql("DROP DATABASE IF EXISTS fresh WITH (FORCE); CREATE DATABASE fresh;")
    yield server.get_uri(database="fresh")


def _fresh_mysql() -> str:
    server = sa.make_url(MYSQL).set(drivername="mysql+pymysql")
    engine = sa.create_engine(
        server.set(database="information_schema"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {server.database}"))
        connection.execute(sa.text(f"CREATE DATABASE {server.database}"))
    engine.dispose()
    return MYSQL


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"
