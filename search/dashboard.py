"""optuna-dashboard on a study: what it shows beyond Optuna's own views, and its server.

`annotate` gives a trial its note and pictures when it ends, `Refresher` keeps the study's
note and plots up to date, `open_server` answers for both through `search.guard`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import save_note, save_plotly_graph_object, wsgi
from optuna_dashboard._note import note_ver_key, split_body

from search import plots
from search.config import ConfigError, MachineError, StudyConfig
from search.data import Dataset
from search.database import StudyStorage
from search.guard import LOOPBACK, Guard
from search.notes import study_note, trial_note
from search.objective import Finished
from search.pictures import Gallery, trial_pictures
from search.storage import attach, study_storage
from search.summary import Summary, summarize

log = logging.getLogger(__name__)

# The dashboard searches all notes for each trial that has one: 0.4 s for the first view at
# 1,000 notes, 115 s at 10,000.  Later trials get one when they are among the best.
NOTED = 1000
NOTED_LEADERS = 10

TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")  # may stand in an address and in a cookie


# ---------------------------------------------------------------------------- trials


def annotate(
    finished: Finished, config: StudyConfig, dataset: Dataset, store: FileSystemArtifactStore
) -> None:
    """Gives a trial that ran to its end its note and its pictures, which nobody draws yet."""
    trial, architecture = finished.trial, finished.candidate.architecture
    history = [vars(record) for record in finished.training.history]
    if trial.number < NOTED or _leads(trial, finished.training.history[-1].accuracy):
        write_note(trial.study, trial._trial_id, trial_note(architecture, config.rules))
    pictures = trial_pictures(
        trial.number,
        architecture,
        history,
        dataset.validation,
        finished.evaluation.logits,
        dataset.classes,
        target=config.study.target,
        limit=config.limits.get("receptive_field"),
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            for picture in pictures:
                path = Path(folder) / f"{picture.name}.png"
                path.write_bytes(picture.to_bytes())
                attach(trial, path, store)
    except OSError as error:
        # What was trained for hours is not lost over a picture.
        log.warning("trial %d stays without pictures: %s", trial.number, error)


def write_note(study: optuna.Study, trial_id: int, body: str) -> None:
    """Writes what `save_note` does; that one reads the notes of all trials first, and twice."""
    for key, value in {note_ver_key(trial_id): 1, **split_body(body, trial_id)}.items():
        study._storage.set_study_system_attr(study._study_id, key, value)


def _leads(trial: optuna.Trial, accuracy: float) -> bool:
    done = trial.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    better = [other for other in done if other.values[0] > accuracy]
    return len(better) < NOTED_LEADERS


# ---------------------------------------------------------------------------- the study


def refresh(study: optuna.Study, summary: Summary) -> None:
    """Writes the study's note and plots as of `summary`."""
    drawn = (
        ("accuracy-over-parameters", plots.accuracy_over(summary, "parameters", "parameters")),
        ("accuracy-over-MACs", plots.accuracy_over(summary, "macs", "MACs")),
        ("rejections-by-rule", plots.rejections(summary)),
    )
    with study_storage(study).together():
        save_note(study, study_note(summary, study._study_id, datetime.now()))
        for name, figure in drawn:
            save_plotly_graph_object(study, figure, graph_object_id=name)


class Refresher:
    """Refreshes a study when trials have ended since, in a twentieth of the time at most.

    A note is written in pieces, so two writers at once could mix theirs: a refresh by
    anybody in the last `pause` seconds is enough for all.
    """

    pause = 5.0
    share = 20.0

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._shown: tuple[int, int] | None = None
        self._next = 0.0

    def tick(self, summary: Summary, *, at_once: bool = False) -> None:
        """Call it as often as a new summary is at hand; `at_once` ignores all pauses.

        While the storage does not answer it does nothing.
        """
        with contextlib.suppress(StorageInternalError):
            state = (summary.finished, len(summary.trials))
            begin = time.monotonic()
            if not at_once and (state == self._shown or begin < self._next or self._fresh()):
                return
            self._study.set_user_attr("refreshed", time.time())
            refresh(self._study, summary)
            self._shown = state
            cost = time.monotonic() - begin
            self._next = begin + max(self.pause, self.share * cost)

    def _fresh(self) -> bool:
        return time.time() - float(self._study.user_attrs.get("refreshed", 0.0)) < self.pause


# ---------------------------------------------------------------------------- the server


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Browsed(StudyStorage):
    """The study as a browser gets it, every few seconds and in full: what fills screens in one
    line, and stands in the notes in a better way, stays here."""

    def __init__(self, storage: StudyStorage) -> None:
        vars(self).update(vars(storage))  # over the same connections

    def get_all_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        trials = super().get_all_trials(*args, **options)
        for trial in trials:
            for key in ("architecture", "recipe", "history"):
                trial.user_attrs.pop(key, None)
        return trials


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
    storage = _Browsed(study_storage(study))
    guarded = Guard(wsgi(storage, Gallery(store)), hosts=names, write=write, token=token)
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
    return f"http://{shown}:{port}/dashboard/studies/{study._study_id}{query}"


def serve(
    study: optuna.Study,
    store: FileSystemArtifactStore,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    write: bool = False,
    token: str | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Serves the dashboard, and keeps the study's note and plots up to date, until Ctrl-C.

    `announce` gets the study's address.

    Raises:
        ConfigError, MachineError: see `open_server`.
    """
    with open_server(study, store, host=host, port=port, write=write, token=token) as server:
        refresher = Refresher(study)
        refresher.tick(summarize(study), at_once=True)
        threading.Thread(target=_keep_fresh, args=(study, refresher), daemon=True).start()
        announce(address(server, study, token))
        server.serve_forever()


def _keep_fresh(study: optuna.Study, refresher: Refresher) -> None:
    while True:
        time.sleep(refresher.pause)
        # A storage that does not answer now is asked again.
        with contextlib.suppress(StorageInternalError):
            refresher.tick(summarize(study))
