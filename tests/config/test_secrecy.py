from __future__ import annotations

import pytest

from search.config.secrecy import concealed, require_no_password


@pytest.mark.parametrize(
    "word",
    [
        "postgresql://me@host:5432/db",
        "postgresql://me@[::1]:5432/db?sslmode=require&connect_timeout=3",
        "postgresql:///db?host=/run/postgresql",
        "sqlite:////home/me:you@home/a.db",
        "data.root=/home/me:you@home",
        "postgresql://postgres:@/db?passfile=/home/me/.pgpass",
    ],
)
def test_what_holds_no_password_may_stand_on_the_command_line(word: str) -> None:
    require_no_password(word)


def test_what_is_harmless_is_shown_and_the_rest_is_not() -> None:
    given = "postgresql://me@[::1]:5432/db?host=/run&bogus=1&SSLMODE=require&options=-c x"
    assert concealed(given) == (
        "postgresql://me@[::1]:5432/db?host=/run&bogus=***&SSLMODE=require&options=***"
    )
    assert concealed("sqlite:////home/me:you@home/a.db") == "sqlite:////home/me:you@home/a.db"
