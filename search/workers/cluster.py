"""The same workers on a Ray cluster: Ray places them, shares GPUs out, and restarts them.

Each task of Ray looks after one worker process, as `launch` does on one machine.  A process of
its own, because a worker has its signals, may crash below Python, and replaces itself when a
trial hangs.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from search.config.private import make_private, private
from search.errors import ConfigError, MachineError
from search.workers.supervisor import (
    PULSE,
    RANKS,
    SUPERVISOR,
    Ending,
    Workers,
    ending_of,
    handled,
    last_words,
    lines_after,
)

log = logging.getLogger(__name__)

RESTARTS = 30
"""How often Ray starts one worker again that dies, or whose machine does."""
ANSWER = 5.0
"""Seconds within which a cluster must answer."""


class WorkerDiedError(RuntimeError):
    """A worker ended with none of its own exit codes."""


# --- reaching the cluster --------------------------------------------------------------


@contextmanager
def joined(address: str, *, shared: bool) -> Iterator[None]:
    """This process is part of the cluster at `address`; where it is already, nothing happens.

    `shared` says whether other machines can reach the study's database.

    Raises:
        ConfigError: the address is none, or the cluster's machines do not share the database.
        MachineError: Ray is not installed, or there is no cluster at `address`.
    """
    server = _server(address)
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    if server:
        _require_answer(address, server)
    with _options(address) as options:
        _join(address, options)
        try:
            if not shared:
                _require_one_machine()
            yield
        finally:
            ray.shutdown()


def _ray() -> Any:
    """Ray, whose types are not complete, once it is needed."""
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise MachineError("--ray needs Ray: pip install 'c1c4-search[ray]'") from None


def _server(address: str) -> tuple[str, int] | None:
    """Host and port that `address` names; None where Ray finds the cluster or makes one."""
    if address in ("auto", "local"):
        return None
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or "/" in host:
        raise ConfigError(f"--ray {address}: must read HOST:PORT, auto or local")
    return host, int(port)


def _require_answer(address: str, server: tuple[str, int]) -> None:
    """Ray itself tries for two minutes, and then ends the process."""
    try:
        socket.create_connection(server, timeout=ANSWER).close()
    except OSError as error:
        raise MachineError(f"--ray {address}: nobody answers ({error}); see ray status") from None


@contextmanager
def _options(address: str) -> Iterator[dict[str, Any]]:
    """How to reach `address`, or to make the cluster that `local` asks for.

    Ray opens its folder to everybody; so it lies in one of ours, as near the root as Ray's
    own, since sockets need short paths.
    """
    if address != "local":
        yield {}
        return
    root = os.environ.get("RAY_TMPDIR", "/tmp")
    with tempfile.TemporaryDirectory(prefix="ray-", dir=root, ignore_cleanup_errors=True) as place:
        yield {"include_dashboard": False, "_temp_dir": f"{place}/ray"}


def _join(address: str, options: dict[str, Any]) -> None:
    ray = _ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or a new cluster reports on its use
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        line = next(iter(str(error).splitlines()), "")
        raise MachineError(f"--ray {address}: {line}") from None


def _require_one_machine() -> None:
    ray = _ray()
    machines = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    others = sorted(machines - {socket.gethostname()})
    if others:
        raise ConfigError(
            f"storage: {', '.join(others)} cannot share a SQLite file with this machine; use "
            "PostgreSQL: STUDY_STORAGE=postgresql://me@host/studies"
        )


def cluster_in_words() -> str:
    """The cluster that this process is part of, in words."""
    ray = _ray()
    machines = sum(node["Alive"] for node in ray.nodes())
    there = ray.cluster_resources()
    return (
        f"Ray cluster, machines: {machines}, cores: {there.get('CPU', 0):g}, "
        f"GPUs: {there.get('GPU', 0):g}"
    )


# --- workers on it ---------------------------------------------------------------------


def launch(workers: Workers, tick: Callable[[], None] = lambda: None) -> Ending:
    """Places the workers on the cluster and stays until all have ended.

    The URL travels as a task's argument, which Ray neither logs nor shows, unlike an
    environment; on the machine it is in the environment of the worker alone.  A signal
    stops the workers, which queue their trials again; a second one does not wait for that.

    Raises:
        ConfigError: the cluster has no GPU for `per_gpu` workers on each.
        MachineError: no worker reached target or budget; says why the first one failed.
    """
    ray = _ray()
    task = ray.remote(attend).options(
        **_share(workers),
        max_retries=RESTARTS,
        retry_exceptions=[WorkerDiedError],
        name="worker",
    )
    with _signals() as received:
        command, url, logs = list(workers.command), workers.url, workers.logs
        tasks = [
            task.remote(command, url, str(Path.cwd()), str(logs / f"worker-{index}.log"))
            for index in range(workers.count)
        ]
        ends = _outcome(tasks, received, tick)
    if received:
        return Ending(f"stopped by {received[0].name}", 128 + received[0])
    if not ends:
        raise MachineError("Ray has canceled all workers")
    return ending_of(ends)


def _share(workers: Workers) -> dict[str, float]:
    """What one worker takes of the cluster."""
    ray = _ray()
    device, per_gpu = workers.device, workers.per_gpu
    there = ray.cluster_resources()
    gpus = there.get("GPU", 0) if device in ("auto", "cuda") else 0
    if device.startswith("cuda:"):
        raise ConfigError(f"--device {device}: Ray chooses the GPU; use --device cuda")
    if not gpus and (device == "cuda" or per_gpu is not None):
        raise ConfigError("--per-gpu and --device cuda need GPUs, but the cluster has none")
    room = int(gpus * (per_gpu or 1) if gpus else there.get("CPU", 0))
    if workers.count > room:
        log.warning(
            "the cluster has room for %d of %d workers; the others wait", room, workers.count
        )
    return {"num_cpus": 1, "num_gpus": 1 / (per_gpu or 1) if gpus else 0}


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Signals are noted; the second of them is a `KeyboardInterrupt`."""
    received: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        if len(received) > 1:
            raise KeyboardInterrupt

    with handled(note):
        yield received


def _outcome(
    tasks: Sequence[Any], received: Sequence[signal.Signals], tick: Callable[[], None]
) -> list[tuple[int, str]]:
    """How the workers ended; when one says that the study is over, those still to come as well."""
    ray = _ray()
    ends: list[tuple[int, str]] = []
    pending, canceled = list(tasks), False
    try:
        while pending:
            tick()
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=PULSE)
            ends += [end for task in done if (end := _end(task))]
            if not canceled and (received or any(code in (0, 1) for code, _ in ends)):
                _cancel(pending)
                canceled = True
    except BaseException:
        _cancel(pending)
        ray.wait(pending, num_returns=len(pending), timeout=ANSWER)
        raise
    tick()
    return ends


def _cancel(tasks: Sequence[Any]) -> None:
    ray = _ray()
    for task in tasks:
        ray.cancel(task, force=False)  # a KeyboardInterrupt in `attend`


def _end(task: Any) -> tuple[int, str] | None:
    """Exit code and last words of a worker; None where it was canceled."""
    ray = _ray()
    try:
        code, words = ray.get(task)
    except ray.exceptions.TaskCancelledError:
        return None
    except (ray.exceptions.RayError, WorkerDiedError) as error:
        cause = getattr(error, "cause", error)
        line = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        return 3, f"{line} (started {RESTARTS + 1} times)"
    return int(code), str(words)


# --- on a machine of the cluster -------------------------------------------------------


def attend(command: list[str], url: str, directory: str, log: str) -> tuple[int, str]:
    """Runs one worker process and answers with its exit code and last words.

    It starts in `directory` where this machine has one, so that paths mean the same
    everywhere, and with this machine's Python and this file's neighbors.  It ends with this
    process, however that ends.

    Raises:
        WorkerDiedError: it was killed; Ray then calls again, here or elsewhere.
    """
    # A cluster that was started behind a shell's & ignores SIGINT, and with it cancellation.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "STUDY_STORAGE": url, SUPERVISOR: str(os.getpid())}
    environment["PYTHONPATH"] = os.pathsep.join([root, *_listed("PYTHONPATH")])
    if Path(directory).is_dir():
        os.chdir(directory)
    path = Path(log)
    make_private(path.parent)
    # Open to the end, when somebody may have removed it.
    with open(path, "a+b", opener=private) as file:
        start = file.tell()
        worker = subprocess.Popen(
            [sys.executable, *command[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while worker.poll() is None:
                time.sleep(PULSE)
        finally:
            worker.terminate()
            worker.wait()
        words = last_words(lines_after(file, start))
    if worker.returncode not in RANKS:
        raise WorkerDiedError(f"a worker ended with code {worker.returncode}: {words}")
    return worker.returncode, words


def _listed(variable: str) -> list[str]:
    return [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
