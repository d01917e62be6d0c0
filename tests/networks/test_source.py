"""The generated file: the same function as the network that was checked, in plain PyTorch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from search.bundles.plain import require_plain
from search.networks.architecture import Architecture, Block, Layer, Output, Unit
from search.networks.module import build
from search.networks.source import generate, state_key
from tests.conftest import STUDIES, VARIED_SPACE, candidates

CLASSES = ("a cat", 'a "dog"', "C:\\n", "\N{SNOWMAN}", "\udcff", *"fghij")


def source(architecture: Architecture, **changes: Any) -> str:
    facts = {
        "title": "A network.",
        "facts": ["Some facts."],
        "classes": CLASSES,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.3, 0.2, 0.1),
    }
    return generate(architecture, **{**facts, **changes})


def baseline() -> Architecture:
    return Architecture.from_json(json.loads((STUDIES / "baseline.json").read_text()))


def odd() -> Architecture:
    """What no study file can ask for, but an architecture's JSON can."""
    grouped = Layer(8, 8, 5, padding=4, dilation=2, groups=2, bias=True, activation="silu")
    lone = Layer(8, 8, 3, stride=2, padding=1, groups=8)
    mixed = Unit((Layer(8, 8, 3, padding=1), Layer(8, 8, 3, padding=1, groups=8)), True, 3)
    return Architecture(
        (
            Block("C1", (), (Layer(3, 8, 4, stride=2, padding=2, norm=False),)),
            Block("C2", (Unit((grouped,), squeeze_excite=2), mixed), (lone,)),
            Block("C3", (Unit((grouped,)),), (lone, Layer(8, 8, 1, padding=1))),
            Block("C4", (Unit((Layer(8, 16, 3, activation="relu6", dropout=0.25),)),)),
        ),
        Output(10, classifier="conv", bias=False, pool_kernel=3, dropout=0.5),
    )


VARIED = candidates(20, seed=4, choices=VARIED_SPACE)
NETWORKS = [*candidates(40, seed=3), *VARIED, baseline(), odd()]


def made(text: str) -> nn.Module:
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(text, "model.py", "exec"), namespace)  # our own words, a moment old
    network = namespace["Network"]()
    assert isinstance(network, nn.Module)
    return network


def alive(architecture: Architecture) -> nn.Module:
    """As after training: its norms let a signal through, where fresh ones let it fade until
    every image gets the same answer."""
    network = build(architecture)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    network.train()(torch.randn(8, *architecture.input))
    return network.eval()


@pytest.mark.parametrize("architecture", NETWORKS, ids=lambda a: a.hash)
def test_the_file_computes_what_the_built_network_computes(architecture: Architecture) -> None:
    torch.manual_seed(0)
    expected, network = alive(architecture), made(source(architecture)).eval()
    network.load_state_dict(
        {state_key(architecture, k): v for k, v in expected.state_dict().items()}
    )
    x = torch.randn(2, *architecture.input)
    assert torch.equal(network(x), expected(x))
    assert not torch.allclose(expected(x), expected(x.flip(3))), "what an image shows is felt"


@pytest.mark.parametrize("architecture", NETWORKS[-10:], ids=lambda a: a.hash)
def test_the_file_is_plain(architecture: Architecture) -> None:
    text = source(architecture)
    require_plain(text)
    imported = {
        alias.name
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.Import)
        for alias in n.names
    }
    assert imported <= {"torch"}


def test_the_files_please_ruff(tmp_path: Path) -> None:
    for number, architecture in enumerate(NETWORKS):
        (tmp_path / f"model_{number}.py").write_text(source(architecture, classes="abcdefghij"))
    rules = "E,F,W,I,UP,B,SIM,RUF,PT,C4,N,D101,D102,D103"
    common = ["--isolated", "--line-length", "100", "."]
    for command in (
        ["check", "--select", rules, "--ignore", "D102,RUF001,RUF002", *common],
        ["format", "--check", *common],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_names_from_outside_stay_names() -> None:
    namespace: dict[str, Any] = {}
    exec(compile(source(baseline()), "model.py", "exec"), namespace)
    assert namespace["CLASSES"] == CLASSES


def test_units_that_repeat_are_a_loop() -> None:
    assert "*(Conv(64, 64) for _ in range(2))," in source(baseline())


def test_what_does_not_vary_is_no_argument() -> None:
    text = source(baseline())
    assert "def __init__(self, inputs: int, outputs: int, *, dilation: int = 1) -> None:" in text
    assert "stride: int" not in text
