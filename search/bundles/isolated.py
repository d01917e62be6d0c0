"""A bundle's `model.py`, which somebody else may have written: read first, then run apart.

`require_plain` accepts the few statements of which a network is made, so a file that passes
cannot open, import or call anything else.  It runs in a process of its own all the same.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Seconds.  A trace took more than 80 of them beside twelve other processes on two cores.
RUN_LIMIT = 1_800
_PROJECT = ("space", "constraints", "search", "run_study")

_LAYERS = frozenset(
    {
        *("Module", "Sequential", "Conv2d", "BatchNorm2d", "Dropout", "Linear", "Flatten"),
        *("AvgPool2d", "AdaptiveAvgPool2d", "ReLU", "GELU", "SiLU", "Hardswish"),
    }
)
_ATTRIBUTES = {"nn": _LAYERS, "torch": frozenset({"relu", "sigmoid"}), "x": frozenset({"mean"})}
_BUILTINS = frozenset({"super", "range", "int", "float"})
# `_` is a builtin wherever an interactive line or a doctest has shown a value in this process,
# and a loop's name in model.py.
_FORBIDDEN = frozenset(dir(builtins)) - _BUILTINS - {"_"}
_IMPORTS = {
    None: {"torch"},
    "__future__": {"annotations"},
    "torch": {"Tensor", "nn"},
}
_STATEMENTS = (
    ast.Module, ast.Expr, ast.Constant, ast.Import, ast.ImportFrom, ast.alias, ast.Assign,
    ast.Name, ast.Load, ast.Store, ast.Tuple, ast.ClassDef, ast.FunctionDef, ast.arguments,
    ast.arg, ast.Attribute, ast.Call, ast.keyword, ast.Return, ast.BinOp, ast.Add, ast.Mult,
    ast.FloorDiv, ast.Starred, ast.GeneratorExp, ast.comprehension,
)  # fmt: skip


class NotPlainError(ValueError):
    """A statement that no network needs; names line and reason."""


class RunError(RuntimeError):
    """The file failed in its process; says why in one line."""


def require_plain(source: str) -> None:
    """Accepts a file of plain layers and nothing else.

    Raises:
        NotPlainError: it has something else; that may be harmless, but is not run.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotPlainError(f"no Python: {error}") from None
    for node in ast.walk(tree):
        reason = _objection(node)
        if reason:
            raise NotPlainError(f"line {getattr(node, 'lineno', 0)}: {reason}")


def _objection(node: ast.AST) -> str | None:
    if not isinstance(node, _STATEMENTS):
        return f"{type(node).__name__} is nothing that a plain network needs"
    match node:
        case ast.Import() | ast.ImportFrom():
            module = node.module if isinstance(node, ast.ImportFrom) else None
            for alias in node.names:
                if alias.asname or alias.name not in _IMPORTS.get(module, ()):
                    return f"imports {module or alias.name}, not torch alone"
        case ast.Name(ctx=ast.Store()) | ast.arg() | ast.ClassDef() if _rebinds(node):
            return "gives torch, nn or self another meaning"
        case ast.Name():
            hidden = node.id.startswith("_") and node.id != "_"
            if hidden or node.id in _FORBIDDEN:
                return f"uses {node.id}"
        case ast.Attribute():
            return _attribute_objection(node)
        case ast.FunctionDef():
            if node.decorator_list or node.name not in ("__init__", "forward"):
                return f"defines {node.name}"
            if [arg.arg for arg in node.args.args[:1]] != ["self"]:
                return f"{node.name} must begin with self"
            if len(node.args.defaults) >= len(node.args.args) or node.args.vararg:
                return f"{node.name} has a default for self"
        case ast.ClassDef():
            if node.decorator_list or node.keywords:
                return f"class {node.name} has decorators or keywords"
    return None


def _rebinds(node: ast.Name | ast.arg | ast.ClassDef) -> bool:
    """Whether what follows `torch.`, `nn.` or `self.` could belong to something else."""
    match node:
        case ast.Name():
            return node.id in ("torch", "nn", "self")
        case ast.arg():
            return node.arg in ("torch", "nn")
    return node.name in ("torch", "nn", "self")


def _attribute_objection(node: ast.Attribute) -> str | None:
    match node.value:
        case ast.Call(func=ast.Name(id="super"), args=[], keywords=[]) if node.attr == "__init__":
            return None
        case ast.Name(id="self") if not node.attr.startswith("_"):
            return None
        case ast.Name(id=base) if node.attr in _ATTRIBUTES.get(base, ()):
            return None
    return f"uses {ast.unparse(node)}"


def logits(source: str, weights: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the `Network` of `source` makes of `inputs` (N, C, H, W), in a process that has
    torch and safetensors, but not this project.

    Raises:
        RunError: it fails, or takes longer than `RUN_LIMIT` seconds.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.py").write_text(source, encoding="utf-8")
        (folder / "model.safetensors").write_bytes(weights)
        np.save(folder / "inputs.npy", inputs)
        # -I: no working directory, no PYTHONPATH and no user's site on the path.
        _run(["-I", "-B", "-c", _RUN, *_PROJECT], folder, {})
        result: NDArray[np.float32] = np.load(folder / "logits.npy", allow_pickle=False)
    return result


_RUN = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ImportError(f"{name} must not be needed")
sys.meta_path.insert(0, Absent())
import importlib.util
import numpy
import torch
from safetensors.torch import load_file
spec = importlib.util.spec_from_file_location("model", "model.py")
model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)
network = model.Network().eval()
network.load_state_dict(load_file("model.safetensors"))
with torch.inference_mode():
    numpy.save("logits.npy", network(torch.from_numpy(numpy.load("inputs.npy"))).numpy())
"""


def traced(source: str, shape: tuple[int, int, int], limits: Mapping[str, int]) -> dict[str, Any]:
    """The verdict, as `check --json` has it, on the traced `Network` of `source`.

    Raises:
        RunError: it fails, or cannot be traced.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.py").write_text(source, encoding="utf-8")
        arguments = [json.dumps(list(shape)), json.dumps(dict(limits))]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        _run(["-B", "-P", "-c", _TRACE, *arguments], folder, {"PYTHONPATH": path})
        verdict: dict[str, Any] = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    return verdict


_TRACE = """
import json, sys
from constraints import Limits, check
from search.analysis.tracing.loading import load_factory, make
from search.analysis.tracing.trace import trace
shape, limits = (json.loads(argument) for argument in sys.argv[1:])
graph = trace(make(load_factory("model.py:Network")), tuple(shape))
verdict = check(graph, Limits.from_mapping(limits)).to_json()
with open("verdict.json", "w", encoding="utf-8") as file:
    json.dump(verdict, file)
"""


def _run(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    try:
        subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"took longer than {RUN_LIMIT} s") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise RunError(lines[-1] if lines else f"exit code {error.returncode}") from None
