"""What a command line names as TARGET."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.targets import resolve


def test_what_foreign_code_prints_is_no_result(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "noisy.py"
    file.write_text(
        "import os\nfrom torch import nn\n"
        "def net():\n"
        "    print('python')\n    os.system('echo child')\n    os.write(1, b'C\\n')\n"
        "    return nn.Conv2d(3, 4, 3)\n"
    )
    resolve(f"{file}:net", [(3, 8, 8)], None)
    print("result")
    out, err = capfd.readouterr()
    assert out == "result\n"
    assert {"python", "child", "C"} <= set(err.split())
