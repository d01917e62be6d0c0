"""optuna-dashboard on one study, behind the guard."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.exceptions import StorageInternalError

from search.display.dashboard.browsed import Browsed
from search.display.dashboard.details import dashboard
from search.display.dashboard.guard import LOOPBACK, Guard
from search.display.dashboard.pictures import Gallery
from search.display.dashboard.refresh import Refresher
from search.errors import ConfigError, MachineError
from search.storage.internals import study_id
from search.storage.summary import summarize

TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")  # may stand in an address and in a cookie


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """Logs no requests: the first one's address may hold the token."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def open_server(
    study: optuna.Study,
    store: FileSystemArtifactStore,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    write: bool = False,
    token: str | None = None,
) -> WSGIServer:
    """A server on `host` and `port` (0: any free one) that is not yet serving.

    Raises:
        ConfigError: `host` is not loopback and there is no `token`, or a bad one.
        MachineError: the port is taken, or the host is not of this machine.
    """
    _require_token(host, token)
    names = {*LOOPBACK, host}
    if token is not None:
        names |= {socket.gethostname(), socket.getfqdn()}
    app = dashboard(Browsed(study), Gallery(store))
    guarded = Guard(app, hosts=names, write=write, token=token)
    kind = _Server6 if ":" in host else _Server
    try:
        return make_server(host, port, guarded, server_class=kind, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MachineError(f"{host}:{port}: {reason}; choose another --port or --host") from None


def _require_token(host: str, token: str | None) -> None:
    if token is not None and not TOKEN.fullmatch(token):
        raise ConfigError("the token must be 16 or more letters, digits, '-' and '_'")
    if token is None and host not in LOOPBACK:
        raise ConfigError(
            f"--host {host}: whoever reaches this machine would read the study; "
            "give a token (--token makes one), or leave --host out and forward the port through SSH"
        )


def address(server: WSGIServer, study: optuna.Study, token: str | None = None) -> str:
    """Where a browser opens the study."""
    host, port = str(server.server_address[0]), server.server_port
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    shown = f"[{name}]" if ":" in name else name
    query = f"?token={token}" if token else ""
    return f"http://{shown}:{port}/dashboard/studies/{study_id(study)}{query}"


def serve(server: WSGIServer, study: optuna.Study, announce: Callable[[], None]) -> None:
    """Serves the dashboard, and keeps the study's note and plots up to date, until Ctrl-C.

    `announce` is called when they are.
    """
    refresher = Refresher(study)
    refresher.tick(summarize(study), at_once=True)
    threading.Thread(target=_keep_fresh, args=(study, refresher), daemon=True).start()
    announce()
    server.serve_forever()


def _keep_fresh(study: optuna.Study, refresher: Refresher) -> None:
    while True:
        time.sleep(refresher.pause)
        # A storage that does not answer now is asked again.
        with contextlib.suppress(StorageInternalError):
            refresher.tick(summarize(study))
