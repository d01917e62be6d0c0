"""Waiting for a database that is busy or away, and telling what it said in the end."""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

from search.errors import MachineError
from search.storage.internals import models
from search.storage.places import Place

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 60.0
"""Seconds for which a locked or a restarting database is waited for."""


@contextmanager
def translated(place: Place) -> Iterator[None]:
    """Turns the database's errors into one line without a password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        raise MachineError(f"storage {place}: {_reason(error, place)}") from None
    except KeyError as error:
        if error.args != (models.NOT_FOUND_MSG,):
            raise
        raise MachineError(
            f"storage {place}: its study is gone: it was deleted while this ran; launch it again"
        ) from None


def _reason(error: BaseException, place: Place) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    text = str(getattr(cause, "orig", None) or cause or error)
    for secret in place.secrets:
        text = text.replace(secret, "***")
    return next(iter(text.splitlines()), type(error).__name__)


def patient(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
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


reading, light = _transactions("reading"), _transactions("light")


def _dropped(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, PendingRollbackError):
        return True  # Optuna went on in a transaction whose connection had dropped
    return isinstance(cause, DBAPIError) and cause.connection_invalidated
