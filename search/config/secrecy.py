"""What may be secret in a URL or on a command line, and is shown nowhere."""

from __future__ import annotations

import re
from urllib.parse import unquote

from search.errors import ConfigError

# What the URL of a database may ask for and everybody may read.
_HARMLESS = (
    "application_name channel_binding charset client_encoding collation connect_timeout gssencmode "
    "host keepalives keepalives_count keepalives_idle keepalives_interval mode port read_timeout "
    "sslmode target_session_attrs timeout unix_socket uri user write_timeout"
)
HARMLESS = frozenset(_HARMLESS.split())
_URL = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<rest>.*)", re.DOTALL)
_PASSWORD = re.compile(r"pass(?!file)|pwd|secret|token", re.IGNORECASE)


def concealed(text: str) -> str:
    """`text` as it may be shown: without what is, or may be, secret in a URL in it."""
    return _URL.sub(lambda url: f"{url['scheme']}://{_concealed(url['scheme'], url['rest'])}", text)


def _concealed(scheme: str, rest: str) -> str:
    user, password, host = _parted(scheme, rest)
    place, mark, query = (f"{user}:***@{host}" if password else rest).partition("?")
    return place + mark + "&".join(map(_value, query.split("&") if mark else ()))


def _parted(scheme: str, rest: str) -> tuple[str, str, str]:
    """User, password and what follows; a password may hold an @ of its own, and anything else."""
    before, _, host = rest.rpartition("@")
    user, _, password = before.partition(":")
    return ("", "", rest) if scheme.startswith("sqlite") else (user, password, host)


def _value(assignment: str) -> str:
    key, equals, _ = assignment.partition("=")
    if key.lower() in HARMLESS:
        return assignment
    return f"{key}=***" if equals else "***"


def require_no_password(text: str) -> None:
    """Looks at a word of the command line.

    Raises:
        ConfigError: it holds a URL with a password; every user of the machine could read it.
    """
    url = _URL.search(text)
    if url is None:
        return
    _, password, host = _parted(url["scheme"], url["rest"])
    keys = [unquote(part.partition("=")[0]) for part in host.partition("?")[2].split("&")]
    if password or any(map(_PASSWORD.search, keys)):
        raise ConfigError(
            "a password on the command line can be read by every user of this machine; "
            "put the URL into STUDY_STORAGE, or the password into PGPASSFILE"
        )
