"""Several worker processes on one machine: started, supervised, spread over its GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import psutil

from search.config.private import make_private, private
from search.errors import WARNING, ConfigError, MachineError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PULSE = 0.5
"""Seconds between two looks at the workers."""
SUPERVISOR = "STUDY_SUPERVISOR"
"""The environment variable that tells a worker the process id of its `launch`."""


Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """`SIGNALS` go to `handler`, and afterwards where they went before.

    One that whoever started this process ignores, as `nohup` does SIGHUP, stays ignored.
    """
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@dataclass(frozen=True)
class Ending:
    """Why a worker or a launch ended, and its exit code; `notes` tell where workers warned."""

    reason: str
    code: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workers:
    """`count` processes of `command` on the storage at `url`, each of which writes to
    `logs`/worker-<i>.log; on GPUs, `per_gpu` of them share one."""

    command: Sequence[str]
    url: str
    count: int
    logs: Path
    device: str = "auto"
    per_gpu: int | None = None


def launch(workers: Workers, tick: Callable[[], None] = lambda: None) -> Ending:
    """Starts the workers and stays until all have ended.

    Each gets the storage through its environment, where other users cannot read a password,
    and sees one GPU of those that are visible here.  Signals are passed on.  `tick` is called
    twice a second.

    Raises:
        ConfigError: there are not enough GPUs for `per_gpu` workers on each.
        MachineError: no worker reached target or budget; says why the first one failed.
    """
    make_private(workers.logs)
    processes = _Processes(workers.command, workers.logs)
    environments = _environments(workers)
    with handled(processes.pass_on):
        try:
            for environment in environments:
                processes.start(environment)
            while processes.busy:
                tick()
                time.sleep(PULSE)
        finally:
            processes.end()
    tick()
    return processes.ending()


class _Processes:
    """Worker processes of one `launch`."""

    def __init__(self, command: Sequence[str], logs: Path) -> None:
        self._command = command
        self._logs = logs
        self._workers: list[subprocess.Popen[bytes]] = []
        self._words: list[str] = []
        self._notes: list[str] = []
        self._starts: list[tuple[BinaryIO, int]] = []
        # The logs stay open: they are read at the end, though somebody may have removed them.
        self._open = ExitStack()
        self._signal: signal.Signals | None = None

    def end(self) -> None:
        """Stops those that still run, waits for them, and reads what they said."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.terminate()
        with self._open:
            for index, worker in enumerate(self._workers):
                worker.wait()
                lines = lines_after(*self._starts[index])
                self._words.append(last_words(lines))
                self._notes += _noted(self._log(index), lines)

    def start(self, environment: Mapping[str, str]) -> None:
        if self._signal is not None:
            return
        path = self._log(len(self._workers))
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        file = self._open.enter_context(os.fdopen(private(str(path), flags), "a+b"))
        start = file.tell()
        worker = subprocess.Popen(
            self._command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C would reach it twice: from there and from here.
            start_new_session=True,
        )
        self._starts.append((file, start))
        self._workers.append(worker)

    def _log(self, index: int) -> Path:
        return self._logs / f"worker-{index}.log"

    @property
    def busy(self) -> bool:
        return any(worker.poll() is None for worker in self._workers)

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: the workers get the signal, and no other is started."""
        self._signal = self._signal or signal.Signals(number)
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(number)

    def ending(self) -> Ending:
        if self._signal is not None:
            reason = f"stopped by {self._signal.name}"
            return Ending(reason, 128 + self._signal, tuple(self._notes))
        codes = [worker.returncode for worker in self._workers]
        ending = ending_of(list(zip(codes, self._words, strict=True)))
        return replace(ending, notes=tuple(self._notes))


def lines_after(log: BinaryIO, start: int) -> list[str]:
    """What stands in `log` after its first `start` bytes."""
    log.seek(start)
    return log.read().decode(errors="replace").strip().splitlines()


def last_words(lines: Sequence[str]) -> str:
    """The last of a worker's lines, which says why it ended."""
    return lines[-1].removeprefix("run_study: ") if lines else ""


def _noted(log: Path, lines: Iterable[str]) -> Iterator[str]:
    """How many warnings are among `lines` of the file `log`, and the last of them."""
    warnings = [line.removeprefix(WARNING) for line in lines if line.startswith(WARNING)]
    if warnings:
        told = "a warning" if len(warnings) == 1 else f"{len(warnings)} warnings, the last"
        yield f"{log}: {told}: {warnings[-1]}"


def ending_of(ends: Sequence[tuple[int, str]]) -> Ending:
    """What the workers' exit codes and last words mean for the study.

    One worker that reached the target or the end of the budget speaks for all.

    Raises:
        ConfigError: none did, for what a worker was told was wrong.
        MachineError: none did; says why the first one failed.
    """
    index = min(range(len(ends)), key=lambda i: (RANKS.get(ends[i][0], 2), i))
    code, words = ends[index]
    if code == 3 or code not in RANKS:
        raise MachineError(f"worker {index} ended with code {code}: {words}")
    if code == 2:
        raise ConfigError(f"worker {index}: {words}")
    return Ending(words, code)


RANKS = {0: 0, 1: 1, 2: 3, 3: 3}
"""A worker's own exit codes, by how much they say about the study."""


def _environments(workers: Workers) -> list[dict[str, str]]:
    common = {**os.environ, "STUDY_STORAGE": workers.url, SUPERVISOR: str(os.getpid())}
    count, per_gpu = workers.count, workers.per_gpu
    gpus = _visible_gpus() if workers.device in ("auto", "cuda") else []
    if per_gpu is not None and count > per_gpu * len(gpus):
        raise ConfigError(
            f"--workers {count} at --per-gpu {per_gpu}: GPUs needed {-(-count // per_gpu)}, "
            f"visible {len(gpus)}; without --per-gpu they share what there is"
        )
    if gpus:
        return [
            {**common, "CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} for index in range(count)
        ]
    affinity = getattr(psutil.Process(), "cpu_affinity", None)  # macOS has none
    cores = len(affinity()) if affinity else os.cpu_count() or 1
    common.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    return [common] * count


def _visible_gpus() -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [gpu for gpu in listed.split(",") if gpu]
    import torch  # seconds

    return [str(index) for index in range(torch.cuda.device_count())]
