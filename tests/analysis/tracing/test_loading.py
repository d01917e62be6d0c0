"""Where a factory comes from, and what is none."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torchvision

from search.analysis.tracing.errors import TraceError
from search.analysis.tracing.loading import load_factory, make, read_source
from tests.analysis.tracing.net import analyzed


def test_a_factory_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("from torch import nn\nlayer = nn.Conv2d(3, 4, 3)\n")
    file = tmp_path / "mine.py"
    file.write_text("import parts\nimport torch\ndef net():\n    return parts.layer\n")
    found = analyzed(make(load_factory(f"{file}:net")), (3, 8, 8))
    assert found.receptive_field == (3, 3)


def test_a_constructor_that_reads_values_is_made_with_them(tmp_path: Path) -> None:
    file = tmp_path / "drop.py"
    file.write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    rates = [rate.item() for rate in torch.linspace(0, 0.5, 2)]\n"
        "    return nn.Sequential(*(nn.Dropout(rate) for rate in rates), nn.Conv2d(3, 4, 3))\n"
    )
    assert analyzed(make(load_factory(f"{file}:net")), (3, 8, 8)).parameters == 112


def test_code_is_known_by_the_bytes_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def net():\n    pass\n")
    targets = {
        "torchvision.models:squeezenet1_1": Path(torchvision.models.__file__),
        f"{tmp_path}/mine.py:net": tmp_path / "mine.py",
    }
    for target, file in targets.items():
        source = read_source(target)
        assert source.module == target
        assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("torchvision.models", "must be file.py:factory"),
        ("no_such_package.x:net", "No module named"),
        ("torchvision.models:no_such_net", "has no 'no_such_net'"),
        ("nowhere.py:net", "there is no file"),
        ("math:pi", "must be a callable"),
        ("book.ipynb:Net", r"is a notebook.*search\.check\(Net\(\)\)"),
    ],
)
def test_bad_targets(target: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        load_factory(target)


def test_a_factory_that_fails_or_makes_something_else(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def net():\n    raise KeyError('size')\ndef number():\n    return 1\n")
    with pytest.raises(TraceError, match="KeyError"):
        make(load_factory(f"{file}:net"))
    with pytest.raises(TraceError, match="made int"):
        make(load_factory(f"{file}:number"))
    file.write_text("import no_such_thing\n")
    with pytest.raises(TraceError, match=r"importing .* failed"):
        load_factory(f"{file}:net")


def test_a_script_that_exits_is_no_verdict(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text("import sys\ndef net():\n    sys.exit(0)\n")
    with pytest.raises(TraceError, match="SystemExit: 0"):
        make(load_factory(f"{file}:net"))
    file.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(TraceError, match="SystemExit: 0"):
        load_factory(f"{file}:net")


def test_a_script_reads_no_command_line_but_its_own(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(
        "import argparse\nfrom torch import nn\n"
        "reads = argparse.ArgumentParser()\n"
        "reads.add_argument('--width', type=int, default=4)\n"
        "def net(width=reads.parse_args().width):\n"
        "    return nn.Conv2d(3, width + reads.parse_args().width, 1)\n"
    )
    before = list(sys.argv)
    assert analyzed(make(load_factory(f"{file}:net")), (3, 8, 8)).parameters == 8 * 3 + 8
    assert sys.argv == before


def test_a_factory_that_wants_arguments_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "wide.py"
    file.write_text(
        "from torch import nn\n"
        "class Wide(nn.Module):\n"
        "    def __init__(self, width, depth=2): super().__init__()\n"
    )
    with pytest.raises(TraceError, match=r"'width'; .*def network\(\): return Wide\(…\)"):
        make(load_factory(f"{file}:Wide"))


def test_a_failure_is_placed_in_the_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "reads.py"
    file.write_text("import json\n\nsizes = json.loads('no')\n")
    with pytest.raises(TraceError, match=r"\(reads\.py, line 3\)"):
        load_factory(f"{file}:net")


def test_a_relative_import_is_told_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from .parts import layer\n")
    with pytest.raises(TraceError, match=r"as package\.module:factory"):
        load_factory(f"{tmp_path}/net.py:net")
