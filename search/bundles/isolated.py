"""Runs a bundle's code and its ONNX graph, which somebody else may have written, apart.

Each runs in a process of its own, confined and without the user's environment, that gets what
it needs through a pipe (`confined.py`).  It may take as much processor time as the work
that the arithmetic says is there, and not more.
"""

from __future__ import annotations

import json
import marshal
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import distributions
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.bundles import confined

Shape = tuple[int, int, int]
Array = NDArray[np.float32]
Predict = Callable[[Array], Array]

# Seconds of processor time until the first answer; imports took 80 beside twelve other processes.
START = 120
MEMORY = 6 * 2**30  # bytes: torch takes a gigabyte, a batch of images the rest
_SPEED = 1e8  # multiply-adds a second, on the slowest machine that anybody will use
_PATIENCE = 10  # seconds of waiting for each of processor time
_LARGEST = 2**28  # bytes of one answer
_ROOT = Path(confined.__file__).resolve().parents[2]
_SCRIPT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    f"from {confined.__name__} import main; main(*sys.argv[2:])"
)
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT")


class RunError(RuntimeError):
    """Foreign code failed in its process; says why in one line."""


@contextmanager
def network(
    code: CodeType, weights: bytes, shape: Shape, limits: Mapping[str, int], work: float
) -> Iterator[tuple[dict[str, Any], Predict]]:
    """The verdict, as `check --json` has it, on the traced `Network` of `code`, and what this
    makes of images of `shape` with the weights, in a process where it finds torch, but not this
    project.  `work` is the multiply-adds that it will be asked for.

    Raises:
        RunError: it fails, cannot be traced, or takes too long; so do the calls.
    """
    texts = [json.dumps(shape).encode(), json.dumps(dict(limits)).encode()]
    with _Process("network", [*texts, marshal.dumps(code), weights], work) as process:
        try:
            verdict: dict[str, Any] = json.loads(process.first)
        except ValueError as error:
            raise RunError(f"answers with no verdict ({error})") from None
        yield verdict, process.predict


@contextmanager
def onnx(graph: bytes, shape: Shape, work: float) -> Iterator[Predict]:
    """What onnxruntime makes of images of `shape` by `graph`; otherwise as `network`."""
    with _Process("onnx", [json.dumps(shape).encode(), graph], work) as process:
        yield process.predict


@contextmanager
def litert(file: bytes, shape: Shape, work: float) -> Iterator[Predict]:
    """What LiteRT's reference kernels make of images of `shape` by a file in int8: its whole
    numbers, as float32; otherwise as `network`."""
    with _Process("litert", [json.dumps(shape).encode(), file], work) as process:
        yield process.predict


@contextmanager
def micro(
    file: bytes, shape: Shape, work: float, room: int
) -> Iterator[tuple[dict[str, int], Predict]]:
    """The same by TensorFlow Lite Micro, and the bytes of its arena: `total`, `head` and `tail`.
    It may use `room` to find them, and runs within `total`."""
    frames = [json.dumps(shape).encode(), file, json.dumps(room).encode()]
    with _Process("micro", frames, work) as process:
        yield json.loads(process.first), process.predict


def unlimited() -> list[str]:
    """What this system cannot keep foreign code from."""
    with _Process("nothing", [], 0) as process:
        return process.missing


def _libraries() -> str:
    """The folders in which packages are installed, a user's own and those of PYTHONPATH too."""
    found = (each for each in distributions() if each.read_text("INSTALLER"))
    return os.pathsep.join(dict.fromkeys(str(each.locate_file("")) for each in found))


class _Process:
    """One confined process; `first` is its first answer, `missing` what does not limit it."""

    def __init__(self, kind: str, frames: Sequence[bytes], work: float) -> None:
        self._seconds, total = START, START + int(work / _SPEED)
        self._folder = tempfile.TemporaryDirectory()
        self._late = False
        self._failure = ""
        self._process = self._start(kind, total)
        self._timer = self._started_timer()
        try:
            self.missing: list[str] = json.loads(self._receive())
            self._send(*frames)
            self.first = self._receive()
        except BaseException:
            self.close()
            raise
        self._timer.cancel()
        self._seconds = total
        self._timer = self._started_timer()

    def _started_timer(self) -> threading.Timer:
        timer = threading.Timer(self._seconds * _PATIENCE, self._stop)
        timer.daemon = True
        timer.start()
        return timer

    def _start(self, kind: str, total: int) -> subprocess.Popen[bytes]:
        # -I: no working directory, no PYTHONPATH and no user's site on the path.
        options = ["-I", "-B", "-X", "utf8", "-c", _SCRIPT]
        told = [kind, str(START), str(total), str(MEMORY)]
        return subprocess.Popen(
            [sys.executable, *options, str(_ROOT), *told, _libraries()],
            cwd=self._folder.name,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _stop(self) -> None:
        self._late = True
        self._process.kill()

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # it ended before it had read everything
                    stream.close()
        self._folder.cleanup()

    def predict(self, images: Array) -> Array:
        """Logits float32 (N, classes) of images (N, C, H, W), normalized.

        Raises:
            RunError: the process fails, or answers with something else.
        """
        self._send(np.ascontiguousarray(images, np.float32).tobytes())
        head, _, content = self._receive().partition(b"\n")
        try:
            shape = [int(side) for side in json.loads(head)]
            array: Array = np.frombuffer(content, np.float32).reshape(shape)
        except (ValueError, TypeError) as error:
            raise RunError(f"answers with no array ({error})") from None
        return array

    def _send(self, *frames: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: why, `_receive` tells
            for frame in frames:
                confined.write_frame(self._process.stdin, frame)  # type: ignore[arg-type]

    def _receive(self) -> bytes:
        """The next answer; after a failure it fails again, with the same words."""
        if not self._failure:
            try:
                return self._answer()
            except (EOFError, ValueError) as error:
                self._failure = str(error) or self._ended()
        raise RunError(self._failure)

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        frame = confined.read_frame(self._process.stdout, _LARGEST)  # type: ignore[arg-type]
        if frame is None:
            raise EOFError
        if frame[:1] != confined.RESULT:
            raise ValueError(frame[1:].decode(errors="replace"))
        return frame[1:]

    def _ended(self) -> str:
        status = self._process.wait()
        if self._late or status in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"took longer than {self._seconds} s"
        if status < 0:
            name = signal.Signals(-status).name
            return f"was ended by {name} (it may use {MEMORY >> 30} GiB of memory)"
        return f"ended with exit code {status}"
