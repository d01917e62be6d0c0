"""A WSGI wrapper that makes optuna-dashboard safe to leave running.

The dashboard itself has no authentication, answers to any Host (so a page in the user's
browser can rebind DNS to it and delete studies) and serves artifacts with the type that
their author chose.  The guard answers before it:

- an unknown Host gets 421: a rebound name is not ours;
- with a token, a browser without it gets 403; `?token=` becomes a cookie, once;
- what is not GET or HEAD gets 403, with the reason where the dashboard's page shows it, unless
  writing is allowed and the request comes from that page (Origin, Sec-Fetch-Site); the dashboard
  needs none to display;
- another site may link here, but neither read nor embed anything;
- what has no content policy of its own, artifacts first, gets one that runs nothing.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

COOKIE = "study_token"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
INERT = "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"

READ_ONLY = (
    "this dashboard is read-only, so nothing was changed; started with --write it takes changes"
)

_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),  # the first address may hold the token
)


class Guard:
    """Wraps `app`; answers to the names in `hosts`, and to any IP address with a `token`.

    An address in place of a name is never rebound DNS, but on loopback nobody needs one.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        hosts: Iterable[str] = LOOPBACK,
        write: bool = False,
        token: str | None = None,
    ) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._write = write
        self._token = token

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        refusal = self._refusal(environ)
        if refusal:
            reads = environ["REQUEST_METHOD"] in ("GET", "HEAD")
            return (_answer if reads else _refuse)(start_response, *refusal)
        if self._token is not None and not _same(_cookie(environ), self._token):
            return self._admit(environ, start_response, self._token)

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, _guarded(headers), *rest)

        return self._app(environ, start)

    def _refusal(self, environ: WSGIEnvironment) -> tuple[str, str] | None:
        """Status and reason, where the request goes no further."""
        if not self._knows(_host_name(environ.get("HTTP_HOST", ""))):
            return "421 Misdirected Request", "this dashboard does not answer to that host name"
        site = environ.get("HTTP_SEC_FETCH_SITE")
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            foreign = site in ("cross-site", "same-site")
            if foreign and environ.get("HTTP_SEC_FETCH_MODE") != "navigate":
                return "403 Forbidden", "another site may not read this dashboard"
            return None
        if not self._write:
            return "403 Forbidden", READ_ONLY
        origin = f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}"
        if environ.get("HTTP_ORIGIN") != origin or site not in (None, "same-origin"):
            return "403 Forbidden", "only the dashboard's own page may write"
        return None

    def _knows(self, name: str) -> bool:
        return name in self._hosts or (self._token is not None and _is_address(name))

    def _admit(
        self, environ: WSGIEnvironment, start_response: StartResponse, token: str
    ) -> Iterable[bytes]:
        """Trades `?token=` for a cookie; the address that stays behind does not hold it."""
        query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        given = dict(query).get("token", "")
        if environ["REQUEST_METHOD"] != "GET" or not _same(given, token):
            return _answer(start_response, "403 Forbidden", "open the address with its ?token=")
        rest = urlencode([(key, value) for key, value in query if key != "token"])
        # Quoted: a decoded path may hold line ends, and `//name` means another host.
        path = "/" + quote(environ.get("PATH_INFO", "").lstrip("/"), encoding="latin-1")
        headers = [
            ("Location", f"{path}?{rest}" if rest else path),
            ("Set-Cookie", f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax"),
        ]
        return _answer(start_response, "303 See Other", "", headers)


def _refuse(start_response: StartResponse, status: str, reason: str) -> Iterable[bytes]:
    """As the dashboard's own errors come, so that its page shows the reason."""
    body = json.dumps({"reason": reason}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(status, _guarded(headers))
    return [body]


def _answer(
    start_response: StartResponse,
    status: str,
    reason: str,
    headers: Iterable[tuple[str, str]] = (),
) -> Iterable[bytes]:
    body = f"{reason}\n".encode()
    length = ("Content-Length", str(len(body)))
    kind = ("Content-Type", "text/plain; charset=utf-8")
    start_response(status, _guarded([*headers, kind, length]))
    return [body]


def _guarded(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    kept = [pair for pair in headers if not pair[0].lower().startswith("access-control-")]
    if "content-security-policy" not in {name.lower() for name, _ in kept}:
        kept.append(("Content-Security-Policy", INERT))
    return [*kept, *_HEADERS]


def _host_name(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(environ: WSGIEnvironment) -> str:
    try:
        found = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _same(given: str, expected: str) -> bool:
    """Compares in a time that does not tell how much was right."""
    return hmac.compare_digest(given.encode(), expected.encode())
