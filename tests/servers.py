"""Fixtures: a fresh database of each kind, on a real server where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import running_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    with running_postgresql() as server:
        yield server


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
