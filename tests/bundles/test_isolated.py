"""A bundle's code: what is not plain is refused, and what is run cannot see this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save

from search.analysis.table import analyze
from search.bundles import isolated
from search.bundles.isolated import RunError
from search.bundles.plain import NotPlainError, judged, require_plain
from search.networks.module import build
from search.networks.source import generate, state_key
from tests.bundles.conftest import require_confined
from tests.conftest import STUDIES, candidates

NETWORK = next(candidates(1, seed=5))
PLAIN = generate(
    NETWORK, title="A.", facts=(), classes="abcdefghij", mean=(0.0,) * 3, std=(1.0,) * 3
)


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "import torch.utils.cpp_extension",
        "from torch import hub",
        "from torch import nn as n",
        "from os import *",
        "open('x', 'w')",
        "eval('1')",
        "__import__('os')",
        "torch.load('x')",
        "torch.hub.load('a', 'b')",
        "nn.modules.module.torch.os.system('true')",
        "nn.Module.__subclasses__()",
        "().__class__.__base__",
        "getattr(nn, 'x')",
        "globals()",
        "lambda: 0",
        "[x for x in ()]",
        "f'{nn}'",
        "while True: pass",
        "@print\nclass A(nn.Module): pass",
        "class A(nn.Module, metaclass=print): pass",
        "class A(nn.Module):\n    def __del__(self): pass",
        "super().__init__.__globals__",
        "self = torch\nself.load('x')",
        "nn = torch",
        "class torch(nn.Module): pass",
        "class A(nn.Module):\n    def forward(self=torch): pass",
        "class A(nn.Module):\n    def forward(x, self): pass",
        "class A(nn.Module):\n    def forward(self, nn): pass",
        "(" * 9_999 + ")" * 9_999,
        "\0",
        "if",
    ],
)
def test_what_no_network_needs_is_refused(line: str) -> None:
    with pytest.raises(NotPlainError):
        require_plain(f"{PLAIN}\n{line}\n")


def test_an_interactive_session_changes_nothing() -> None:
    """Its display hook, and that of doctest, keeps what was shown last as `builtins._`."""
    code = (
        "import sys; sys.displayhook(1)\n"
        "from search.bundles.plain import require_plain; require_plain(sys.argv[1])"
    )
    assert "for _ in" in PLAIN
    subprocess.run([sys.executable, "-c", code, PLAIN], check=True, timeout=300)


def test_the_code_sees_torch_but_not_this_project() -> None:
    network = build(NETWORK).eval()
    weights = save({state_key(NETWORK, k): v for k, v in network.state_dict().items()})
    images = np.zeros((2, *NETWORK.input), np.float32)
    code = judged(PLAIN.encode()).code
    with isolated.network(code, weights, NETWORK.input, {}, 0) as (verdict, logits):
        assert verdict["macs"] == analyze(NETWORK).macs
        assert logits(images).shape == (2, 10)
    unjudged = compile(f"{PLAIN}\nimport search.networks\n", "model.py", "exec")
    with (
        pytest.raises(RunError, match="search must not be needed"),
        isolated.network(unjudged, weights, NETWORK.input, {}, 0),
    ):
        pass


HOSTILE = """
import json, os, resource, socket
print("no answer", flush=True)
done = []
def attempt(act, *arguments):
    try:
        act(*arguments)
    except (OSError, MemoryError):
        return
    done.append(str(act))
attempt(open, "/etc/passwd")
attempt(open, f"/proc/{os.getppid()}/environ")
attempt(socket.socket)
attempt(os.posix_spawn, "/bin/true", ["true"], {})
attempt(bytearray, 7 << 30)
told = {"done": done, "folder": os.getcwd(), "holds": os.listdir(), "environment": {**os.environ}}
raise ValueError(json.dumps({**told, "seconds": resource.getrlimit(resource.RLIMIT_CPU)}))
"""


def test_hostile_code_gets_nowhere_and_nothing_stays_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_confined(isolated.unlimited())
    monkeypatch.setenv("API_TOKEN", "secret")
    code = compile(HOSTILE, "model.py", "exec")
    with (
        pytest.raises(RunError, match="ValueError: ") as error,
        isolated.network(code, b"", NETWORK.input, {}, work=1e10),
    ):
        pass
    told = json.loads(str(error.value).removeprefix("ValueError: "))
    assert told["done"] == []
    assert told["holds"] == []
    start = isolated.START  # of the work's 100 s, it has none yet
    assert told["seconds"] == [start, start + 100 + 5]
    assert not Path(told["folder"]).exists()
    assert not {"API_TOKEN", "HOME", "PATH"} & told["environment"].keys()


def test_an_answer_is_no_longer_than_it_may_be() -> None:
    """Whoever finds where answers go announces a terabyte of them."""
    announce = """
import os
for number in range(3, 64):
    try:
        os.write(number, (1 << 40).to_bytes(8, "little"))
    except OSError:
        pass
"""
    code = compile(announce, "model.py", "exec")
    with (
        pytest.raises(RunError, match="1,099,511,627,776 bytes where at most 268,435,456 belong"),
        isolated.network(code, b"", NETWORK.input, {}, 0),
    ):
        pass


def test_code_that_only_waits_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_PATIENCE", 3 / isolated.START)
    code = compile("import time; time.sleep(60)", "model.py", "exec")
    with (
        pytest.raises(RunError, match=f"took longer than {isolated.START} s"),
        isolated.network(code, b"", NETWORK.input, {}, 0),
    ):
        pass


def test_the_first_answer_has_a_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much work there is behind it."""
    monkeypatch.setattr(isolated, "START", 1)
    endless = compile("while True: pass", "model.py", "exec")
    with (
        pytest.raises(RunError, match="took longer than 1 s"),
        isolated.network(endless, b"", NETWORK.input, {}, 1e12),
    ):
        pass


def test_packages_may_lie_where_only_the_environment_says() -> None:
    """As those of `pip install --user` and of a cluster's modules do."""
    script = "from search.bundles import isolated\nwith isolated.onnx(b'', (3, 8, 8), 0): pass"
    found = [path for path in sys.path if path.endswith("-packages")]
    environment = {"PYTHONPATH": os.pathsep.join([str(STUDIES.parent), *found]), "HOME": os.devnull}
    base = os.path.realpath(sys.executable)
    ended = subprocess.run([base, "-c", script], env=environment, capture_output=True, text=True)
    assert "RunError" in ended.stderr, "an empty file is no graph"
    assert "ModuleNotFoundError" not in ended.stderr.splitlines()[-1]
