"""Real requests to a real server: an application that answers 200 to everything, guarded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from search.display.dashboard.guard import COOKIE, INERT, LOOPBACK, Guard

TOKEN = "a-token-of-enough-length"
Ask = Callable[..., tuple[int, dict[str, str]]]


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def guarded(**options: Any) -> Iterator[tuple[Ask, list[str], int]]:
    """Answers with a function that asks, the methods that got through, and the port."""
    reached: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        reached.append(environ["REQUEST_METHOD"])
        headers = [("Content-Type", "text/html"), ("access-control-allow-origin", "*")]
        if environ["PATH_INFO"] == "/own":
            headers.append(("content-security-policy", "default-src 'self'"))
        start_response("200 OK", headers)
        return [b"reached"]

    server = make_server("127.0.0.1", 0, Guard(application, **options), handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def ask(method: str = "GET", path: str = "/", **headers: str | None) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": f"localhost:{server.server_port}", **headers}.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status, dict(response.getheaders())

    try:
        yield ask, reached, server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def plain() -> Iterator[tuple[Ask, list[str], int]]:
    with guarded() as site:
        yield site


@pytest.fixture(scope="module")
def writable() -> Iterator[tuple[Ask, list[str], int]]:
    with guarded(write=True) as site:
        yield site


@pytest.fixture(scope="module")
def secret() -> Iterator[tuple[Ask, list[str], int]]:
    with guarded(token=TOKEN, hosts={*LOOPBACK, "lab.example"}) as site:
        yield site


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8080", "[::1]:8080"])
def test_its_own_names_are_answered(plain: Any, host: str) -> None:
    assert plain[0](Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.nip.example",
        "evil.example@localhost",
        "10.0.0.7",
        "[::2]",
        "localhost evil.example",
    ],
)
def test_a_foreign_host_is_misdirected(plain: Any, host: str | None) -> None:
    ask, reached, _ = plain
    before = len(reached)
    assert ask(Host=host)[0] == 421
    assert len(reached) == before


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "MOVE"])
def test_read_only_lets_no_write_through(plain: Any, method: str) -> None:
    ask, reached, port = plain
    assert ask(method, Origin=f"http://localhost:{port}")[0] == 403
    assert method not in reached


def test_writing_is_for_the_dashboards_own_page(writable: Any) -> None:
    ask, _, port = writable
    own = f"http://localhost:{port}"
    assert ask("DELETE", Origin=own)[0] == 200
    assert ask("DELETE", Origin=own, Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_a_write_from_another_site_is_refused(writable: Any, site: str) -> None:
    ask, _, port = writable
    assert ask("POST", Origin=f"http://localhost:{port}", Sec_Fetch_Site=site)[0] == 403


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "http://localhost", "http://localhost:1", "https://{}"],
)
def test_a_write_from_another_origin_is_refused(writable: Any, origin: str | None) -> None:
    ask, reached, port = writable
    value = origin and origin.format(f"localhost:{port}")
    assert ask("PATCH", Origin=value)[0] == 403
    assert "PATCH" not in reached


def test_another_site_may_link_but_not_read(plain: Any) -> None:
    ask = plain[0]
    assert ask(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert ask(Sec_Fetch_Site="same-site", Sec_Fetch_Mode="cors")[0] == 403
    assert ask(Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0] == 200
    assert ask(Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate")[0] == 200


def test_every_answer_carries_the_headers(plain: Any) -> None:
    _, headers = plain[0]()
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == INERT
    assert INERT.startswith("sandbox;")
    assert "allow-scripts" not in INERT
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "access-control-allow-origin" not in {name.lower() for name in headers}
    _, refused = plain[0]("DELETE")
    assert refused["X-Content-Type-Options"] == "nosniff"


def test_a_policy_of_the_applications_own_stands(plain: Any) -> None:
    _, headers = plain[0](path="/own")
    assert headers["content-security-policy"] == "default-src 'self'"
    assert "Content-Security-Policy" not in headers


def test_the_token_becomes_a_cookie(secret: Any) -> None:
    ask, reached, _ = secret
    assert ask(path="/dashboard")[0] == 403
    assert ask(path="/dashboard?token=wrong-but-long-enough")[0] == 403
    assert ask(Cookie=f"{COOKIE}=wrong-but-long-enough")[0] == 403
    assert reached == []
    status, headers = ask(path=f"/dashboard?a=1&token={TOKEN}&b=2")
    assert status == 303
    assert headers["Location"] == "/dashboard?a=1&b=2"
    assert "HttpOnly" in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].split(";")[0]
    assert ask(path="/dashboard", Cookie=cookie)[0] == 200
    assert ask("DELETE", Cookie=cookie)[0] == 403


@pytest.mark.parametrize("cookie", ["", "=", "study_token", 'study_token="', "a=b; study_token=x"])
def test_a_strange_cookie_is_no_token(secret: Any, cookie: str) -> None:
    assert secret[0](Cookie=cookie)[0] == 403


def test_the_way_back_stays_on_this_host(secret: Any) -> None:
    ask = secret[0]
    for path in ("//evil.example/", "/%2f%2fevil.example/", "/\\evil.example/"):
        status, headers = ask(path=f"{path}?token={TOKEN}")
        assert status == 303
        assert not headers["Location"].startswith(("//", "/\\"))
    _, headers = ask(path=f"/a%0d%0aX-Evil:%201?token={TOKEN}")
    assert "X-Evil" not in headers
    assert "%0D%0A" in headers["Location"]


def test_with_a_token_addresses_are_names_too(secret: Any) -> None:
    ask = secret[0]
    cookie = f"{COOKIE}={TOKEN}"
    assert ask(Host="192.168.1.20:8080", Cookie=cookie)[0] == 200
    assert ask(Host="Lab.Example:8080", Cookie=cookie)[0] == 200
    assert ask(Host="evil.example", Cookie=cookie)[0] == 421
