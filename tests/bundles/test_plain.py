"""What is judged is what is run: no encoding but one, no call but of a layer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from search.bundles.plain import NotPlainError, decoded, judged
from tests.bundles.conftest import COMMITTED

PLAIN = (COMMITTED / "model.py").read_bytes()
SMUGGLED = {
    "unicode_escape": b"# -*- coding: unicode_escape -*-\n# \\nopen('mark', 'w')\\n",
    "raw_unicode_escape": b"# coding=raw_unicode_escape\n# \\u000aopen('mark', 'w')\\u000a",
    "utf-7": b"# coding: utf-7\n# +AAo-open('mark', 'w')+AAo-",
    "on line 2": b"#!/bin/python\n# vim: fileencoding=unicode_escape :\n# \\nopen('mark', 'w')\\n",
    "form feed before": b"\x0c# coding: unicode_escape\n# \\nopen('mark', 'w')\\n",
    "carriage return": b"# nothing\ropen('mark', 'w')\r",
}


@pytest.mark.parametrize("line", SMUGGLED.values(), ids=SMUGGLED)
def test_a_comment_that_python_would_run_is_refused(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "smuggled.py").write_bytes(line + b"\n")
    subprocess.run([sys.executable, "smuggled.py"], cwd=tmp_path, check=False, timeout=300)
    assert (tmp_path / "mark").exists(), "Python runs what stands in the comment"
    with pytest.raises(NotPlainError, match=r"encoded as|holds the character"):
        judged(line + b"\n" + PLAIN)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + PLAIN,
        b"\xef\xbb\xbf# coding: latin-1\n" + PLAIN,
        PLAIN + b"\x1aopen('mark', 'w')",
        PLAIN + b"\0",
        PLAIN + b"\x7f",
        PLAIN + "\x85".encode(),
        PLAIN + b"# \xe9\n",
        PLAIN.decode().encode("utf-16"),
        b"# coding: cp037\n" + PLAIN,
    ],
    ids=("mark", "mark and cookie", "end of file", "NUL", "delete", "next line", "latin-1",
         "utf-16", "EBCDIC"),
)  # fmt: skip
def test_only_utf_8_without_control_characters_is_read(content: bytes) -> None:
    with pytest.raises(NotPlainError):
        decoded(content)


def test_text_in_any_language_is_plain() -> None:
    code = b"# -*- coding: utf-8 -*-\r\n" + PLAIN.replace(b'"airplane"', '"самолёт ✈"'.encode())
    assert judged(code).constants["CLASSES"][0] == "самолёт ✈"  # type: ignore[index]


FORWARD, INIT = b"        x = self.C1(x)\n", b"        self.C1 = nn.Sequential(\n"


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (FORWARD, "self.compile()"),
        (FORWARD, "x = self.compile()"),
        (FORWARD, "x = self.register_forward_hook(x)"),
        (FORWARD, "x = self.C1.cuda()"),
        (FORWARD, "x = self.C1.__class__(x)"),
        (FORWARD, "x = x.cpu()"),
        (FORWARD, "x = x(x)"),
        (FORWARD, "self.C1 = x"),
        (FORWARD, "x = super().__init__()"),
        (FORWARD, "x = torch.load(x)"),
        (FORWARD, "x = Downsampling"),
        (FORWARD, "x = self"),
        (FORWARD, "x = range"),
        (FORWARD, "x, y = x, x"),
        (FORWARD, "x[0] = x"),
        (FORWARD, "x += x"),
        (FORWARD, "x = (y := x)"),
        (FORWARD, "x = self.C1(*x, **x)"),
        (FORWARD, "global x"),
        (FORWARD, "x = nn.ReLU()"),
        (FORWARD, "x = Downsampling(3, 3)"),
        (INIT, "e = nn.ReLU()"),
        (INIT, "self.e = self.C1"),
        (INIT, "self.compile = nn.ReLU()"),
        (INIT, "self.forward = nn.ReLU()"),
        (INIT, "self.training = 0"),
        (INIT, "self.e = eval"),
        (INIT, "self.e = open"),
        (INIT, "self.e = __builtins__"),
        (INIT, "self.e = nn"),
        (INIT, "self.e = super"),
        (INIT, "Downsampling = nn.ReLU()"),
        (INIT, "range = nn.ReLU()"),
        (INIT, "self.e = nn.Sequential(*(nn.ReLU() for _ in range(1000000000)))"),
        (INIT, "self.e = nn.Sequential(*(nn.ReLU() for _ in range(9) for _ in range(9)))"),
        (INIT, "self.e = nn.Sequential(*(nn.ReLU() for _ in range(9) if open('x')))"),
        (INIT, "self.e = nn.Sequential(*(nn.ReLU() for self.C1 in range(9)))"),
        (INIT, "self.e = nn.Conv2d(3, 3, 1 << 2)"),
        (INIT, "self.e = nn.Conv2d(3, 3, 3 ** 3)"),
        (INIT, "import os"),
        (INIT, "def forward(x): pass"),
        (INIT, "return self.__dict__"),
    ],
)  # fmt: skip
def test_no_call_but_a_layers(place: bytes, line: str) -> None:
    assert judged(PLAIN)
    assert PLAIN.count(place) == 1
    with pytest.raises(NotPlainError):
        judged(PLAIN.replace(place, f"        {line}\n".encode() + place))


LEGAL = """
A = (1, "a")
class B(nn.Module):
    def __init__(self, n: int, m: float = 0.5) -> None:
        super().__init__()
        self.e = nn.Sequential(*(nn.ReLU() for _ in range(1000)))
    def forward(self, x: Tensor) -> Tensor:
        y = self.e(x)
        return y + x
"""


@pytest.mark.parametrize(
    ("legal", "other", "reason"),
    [
        ("A = (1,", "A = (open,", "Name is nothing"),
        ('A = (1, "a")', "A = open", "Name is nothing"),
        ("A =", "nn =", "gives nn another meaning"),
        ("A =", "B =", "gives B another meaning"),
        ("A =", "__all__ =", "gives __all__ another meaning"),
        ("A =", "import os\nA =", "'import os' is not of torch alone"),
        ("A =", "from os import path\nA =", "'from os import path' is not of torch alone"),
        ("A =", "from .torch import nn\nA =", "'from .torch import nn' is not of torch alone"),
        ("A =", "from . import torch\nA =", "'from . import torch' is not of torch alone"),
        ("class B", "class range", "gives range another meaning"),
        ("class B", "@A\nclass B", "class B has decorators"),
        ("(nn.Module)", "(nn.Module, metaclass=A)", "class B has decorators"),
        ("(nn.Module)", "(nn.Module, nn.Sequential)", "class B has decorators"),
        ("(nn.Module)", "(nn.ReLU)", "class B is no nn.Module"),
        ("(nn.Module)", "(torch.Module)", "class B is no nn.Module"),
        ("    def forward", "    e = 1\n    def forward", "Assign is nothing"),
        ("    def forward", "    @A\n    def forward", "forward has decorators"),
        ("(self, x: Tensor)", "(self, x, *y)", "forward has decorators"),
        ("(self, x: Tensor)", "(self, x, **y)", "forward has decorators"),
        ("(self, x: Tensor)", "(self=1, x=1)", "forward has a default for self"),
        ("(self, x: Tensor)", "(self=1, /, x=1)", "forward has a default for self"),
        ("(self, n: int", "(this, n: int", "__init__ must begin with self"),
        ("n: int", "torch: int", "gives torch another meaning"),
        ("n: int", "B: int", "gives B another meaning"),
        ("n: int", "n: print", "the annotation print means nothing"),
        ("-> Tensor", "-> print", "the annotation print means nothing"),
        ("= 0.5", "= open", "Name is nothing"),
        ("m: float = 0.5", "*, m: float = open", "Name is nothing"),
        ("range(1000)", "range(1001)", "repeats more than 1,000 times"),
        ("nn.ReLU() for", "open for", "uses open"),
        ("self.e = nn", "self._e = nn", "uses self._e"),
        ("nn.ReLU()", "nn.LazyLinear(3)", "calls nn.LazyLinear, which is no layer"),
        ("nn.ReLU()", "open(3)", "calls open, which is no layer"),
        ("nn.ReLU()", "nn.ReLU(inplace=open)", "uses open"),
        ("self.e(x)", "self.e(x, y=open)", "uses open"),
        ("y = ", "nn = ", "gives nn another meaning"),
        ("y + x", "open + x", "uses open"),
        ("y + x", "y + open", "uses open"),
        ("y + x", "(y, open)", "uses open"),
    ],
)
def test_each_rule_is_one_change_away(legal: str, other: str, reason: str) -> None:
    head = PLAIN.decode()
    assert judged(f"{head}{LEGAL}".encode())
    assert LEGAL.count(legal) == 1
    with pytest.raises(NotPlainError, match=rf"line \d+: {re.escape(reason)}") as told:
        judged(f"{head}{LEGAL.replace(legal, other)}".encode())
    line = int(str(told.value).split()[1].rstrip(":"))
    assert 0 <= line - head.count("\n") - LEGAL[: LEGAL.index(legal)].count("\n") - 1 <= 1


@pytest.mark.parametrize(("made", "left"), [("nn.Sequential", 997), ("C", 995)])
def test_ten_thousand_layers_are_the_most(made: str, left: int) -> None:
    """Those in loops and in arguments; calls of `super` and `__init__` count as two."""
    small = "class C(nn.Sequential):\n    def __init__(self) -> None:\n        super().__init__()\n"
    many = "*(nn.Sequential(*(nn.ReLU() for _ in range(999))) for _ in range(9))"
    large = small.replace("class C", "class D").replace(
        "__init__()", f"__init__({made}({many}, *(nn.ReLU() for _ in range(LEFT))))"
    )
    code = f"{PLAIN.decode()}\n{small}{large}"
    assert judged(code.replace("LEFT", f"{left}").encode())
    with pytest.raises(NotPlainError, match="D makes more than 10,000 layers"):
        judged(code.replace("LEFT", f"{left + 1}").encode())


@pytest.mark.parametrize(
    "made",
    [
        "*(nn.Sequential(*(nn.ReLU() for _ in range(1000))) for _ in range(10))",
        "*(B() for _ in range(1000))",
        "A()",
        "*(nn.ReLU() for _ in range(-1))",
    ],
)
def test_layers_are_counted_through_loops_and_classes(made: str) -> None:
    few = "super().__init__(*(nn.ReLU() for _ in range(20)))"
    text = "".join(
        f"class {name}(nn.Sequential):\n    def __init__(self) -> None:\n        {body}\n"
        for name, body in (("A", few), ("B", few))
    )
    assert judged(PLAIN + text.encode())
    with pytest.raises(NotPlainError, match=r"more than 10,000 layers|more than 1,000 times"):
        judged(PLAIN + text.replace(few, f"super().__init__({made})", 1).encode())


@pytest.mark.parametrize(
    "tail",
    [b"A = " + b"(" * 100_000, b"A = 1" + b"+1" * 200_000, b"A = " + b"-" * 100_000 + b"1"],
    ids=("brackets", "additions", "signs"),
)
def test_deep_nesting_is_one_line(tail: bytes) -> None:
    with pytest.raises(NotPlainError) as told:
        judged(PLAIN + tail)
    assert len(str(told.value).splitlines()) == 1
