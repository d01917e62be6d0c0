"""The process in which a bundle's code and its ONNX graph run: `main` is all that it does.

It confines itself before it imports or reads anything.  Foreign content comes through stdin and
answers go to stdout, so it needs no file.  Both are frames: eight bytes of length, then content;
an answer's first byte tells whether the rest is a result or one line of error.
"""

from __future__ import annotations

import json
import marshal
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, BinaryIO

from search.bundles.confinement import allow, confine

PROJECT = ("search", "space", "constraints", "run_study")
RESULT, ERROR = b"\0", b"\1"
_MOST_CALLS = 10_000  # of layers by one another, for one image


def read_frame(stream: BinaryIO, largest: int | None = None) -> bytes | None:
    """The next frame, None at the end.

    Raises:
        EOFError: it ends within a frame.
        ValueError: it announces more than `largest` bytes.
    """
    head = stream.read(8)
    if not head:
        return None
    length = int.from_bytes(head, "little")
    if largest is not None and length > largest:
        raise ValueError(f"{length:,} bytes where at most {largest:,} belong")
    content = stream.read(length)
    if len(head) < 8 or len(content) < length:
        raise EOFError
    return content


def write_frame(stream: BinaryIO, content: bytes) -> None:
    """Writes `content` behind its length."""
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def main(kind: str, seconds: str, total: str, memory: str, libraries: str) -> None:
    """Answers frame after frame: first what could not be limited, then `kind`'s work, which has
    `seconds` of processor time until its first answer, and `total` until its last; `libraries`
    are the folders of installed packages."""
    root = Path(__file__).resolve().parents[2]
    own = [str(root / name) for name in ("search", "space.py", "constraints.py")]
    installed = libraries.split(os.pathsep)
    sys.path += [path for path in installed if path not in sys.path]
    missing = confine([*own, *installed], seconds=int(total), memory=int(memory))
    allow(int(seconds))
    answers, questions = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # what libraries print is no answer
    tempfile.tempdir = os.getcwd()  # torch asks for one; looking for one would write there
    write_frame(answers, RESULT + json.dumps(missing).encode())
    try:
        for answer in _KINDS[kind](questions):
            allow(int(total))
            write_frame(answers, RESULT + answer)
    except BaseException as error:  # foreign code may raise anything
        lines = str(error).strip().splitlines() or [""]
        text = f"{type(error).__name__}: {lines[-1]}".encode(errors="replace")
        write_frame(answers, ERROR + text)


def _frames(stream: BinaryIO) -> Iterator[bytes]:
    while (frame := read_frame(stream)) is not None:
        yield frame


@contextmanager
def _few_calls() -> Iterator[None]:
    """Meanwhile layers may be called so many times as one image needs, and not more."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    from search.analysis.tracing.errors import TraceError

    left = iter(range(_MOST_CALLS))

    def count(*_: Any) -> None:
        if next(left, None) is None:
            raise TraceError(f"more than {_MOST_CALLS:,} calls of layers for one image")

    hook = register_module_forward_pre_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _module(code: CodeType) -> ModuleType:
    module = ModuleType("model")
    exec(code, module.__dict__)
    return module


# ------------------------------------------------------------------------------- kinds


def _network(questions: BinaryIO) -> Iterator[bytes]:
    """First the verdict, as `check --json` has it, on the code's traced network, then what that
    makes of images with the weights.  The code finds nothing of this project."""
    import numpy as np
    import torch
    from safetensors.torch import load

    from constraints import Limits, check
    from search.analysis.tracing.loading import make
    from search.analysis.tracing.trace import trace

    shape, limits, code, weights = (read_frame(questions) or b"" for _ in range(4))
    with _few_calls():
        _hide_project()
        factory = _module(marshal.loads(code)).Network
        graph = trace(make(factory), tuple(json.loads(shape)))
    yield json.dumps(check(graph, Limits.from_mapping(json.loads(limits))).to_json()).encode()
    with torch.device("meta"):  # weights of its own would cost time, and come to nothing
        network = factory().eval()
    network.load_state_dict(load(weights), assign=True)
    with torch.inference_mode():
        for frame in _frames(questions):
            images = np.frombuffer(bytearray(frame), np.float32).reshape(-1, *json.loads(shape))
            yield _array(network(torch.from_numpy(images)).numpy())


def _onnx(questions: BinaryIO) -> Iterator[bytes]:
    import numpy as np
    import onnxruntime

    shape, graph = (read_frame(questions) or b"" for _ in range(2))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    yield b""
    for frame in _frames(questions):
        images = np.frombuffer(frame, np.float32).reshape(-1, *json.loads(shape))
        yield _array(session.run(None, {given.name: images})[0])


def _litert(questions: BinaryIO) -> Iterator[bytes]:
    """LiteRT's reference kernels on a file in int8; numbers as the file has them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    shape, file = (read_frame(questions) or b"" for _ in range(2))
    kernels = OpResolverType.BUILTIN_REF
    runtime = Interpreter(model_content=file, experimental_op_resolver_type=kernels)
    runtime.allocate_tensors()
    (given,), (made,) = runtime.get_input_details(), runtime.get_output_details()
    scale, zero = given["quantization"]

    def run(image: Any) -> Any:
        runtime.set_tensor(given["index"], image)
        runtime.invoke()
        return runtime.get_tensor(made["index"]).copy()

    yield b""
    for frame in _frames(questions):
        yield _scores(run, _pixels(frame, json.loads(shape), scale, zero))


def _micro(questions: BinaryIO) -> Iterator[bytes]:
    """TensorFlow Lite Micro on the same; first the arena that it takes, and within that."""
    from tflite_micro import runtime as tflm

    shape, file, room = (read_frame(questions) or b"" for _ in range(3))
    channels, height, width = json.loads(shape)
    with _heard():
        recorder = tflm.Interpreter.from_bytes(file, arena_size=json.loads(room))
    details = recorder.get_input_details(0)
    (scale,), (zero,) = (
        details["quantization_parameters"][key] for key in ("scales", "zero_points")
    )
    recorder.set_input(
        _pixels(bytes(4 * channels * height * width), [*json.loads(shape)], 1, 0)[0], 0
    )
    recorder.invoke()
    with _heard() as lines:
        recorder.print_allocations()
    arena = dict(re.findall(r"allocation (total|head|tail) (\d+)", "\n".join(lines)))
    yield json.dumps({name: int(size) for name, size in arena.items()}).encode()
    runtime = tflm.Interpreter.from_bytes(file, arena_size=int(arena["total"]))

    def run(image: Any) -> Any:
        runtime.set_input(image, 0)
        runtime.invoke()
        return runtime.get_output(0)

    for frame in _frames(questions):
        yield _scores(run, _pixels(frame, json.loads(shape), scale, zero))


def _pixels(frame: bytes, shape: Any, scale: float, zero: int) -> Any:
    """Images (N, 1, H, W, C) in int8 of those (N, C, H, W) that are normalized."""
    import numpy as np

    images = np.frombuffer(frame, np.float32).reshape(-1, 1, *shape).transpose(0, 1, 3, 4, 2)
    return np.clip(np.round(images / np.float32(scale)) + zero, -128, 127).astype(np.int8)


def _scores(run: Callable[[Any], Any], images: Any) -> bytes:
    """Whole numbers (N, classes), which float32 holds."""
    import numpy as np

    scores = np.concatenate([run(image) for image in images])
    if scores.dtype != np.int8:
        raise TypeError(f"gives {scores.dtype}, not int8")
    return _array(scores.astype(np.float32))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The lines, there at the end, that are meanwhile written to the standard error stream, below
    Python too; an error tells them."""
    lines: list[str] = []
    reader, writer = os.pipe()
    kept = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)
    failure = None
    try:
        yield lines
    except RuntimeError as error:
        failure = error
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        with os.fdopen(reader, errors="replace") as file:
            lines += file.read().splitlines()
    if failure:
        raise RuntimeError("; ".join([str(failure), *lines]))


def _nothing(questions: BinaryIO) -> Iterator[bytes]:
    """Shows what a process is limited in."""
    yield b""


_KINDS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    "nothing": _nothing,
    "network": _network,
    "onnx": _onnx,
    "litert": _litert,
    "micro": _micro,
}


def _array(array: Any) -> bytes:
    """A line of JSON with the shape, then the numbers."""
    import numpy as np

    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        found = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"gives {found}, not one array of float32")
    return json.dumps(array.shape).encode() + b"\n" + array.tobytes()


class _Absent:
    """Finds nothing of this project."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in PROJECT:
            raise ImportError(f"{name} must not be needed")


def _hide_project() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in PROJECT]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Absent)
