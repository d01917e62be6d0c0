from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from search.bundles.files import made_at_once
from search.errors import ConfigError


def _killed(out: Path) -> None:
    with made_at_once(out) as folder:
        (folder / "half").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_export_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "[a] bundle*"
    (tmp_path / ".other.unfinished-x").mkdir()
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(out,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 3
    with made_at_once(out) as folder:
        (folder / "whole").write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.unfinished-x", out.name]
    assert [p.name for p in out.iterdir()] == ["whole"]


def test_two_at_once_are_told_before_the_work(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with (
        made_at_once(out),
        pytest.raises(ConfigError, match="another export is making it"),
        made_at_once(out),
    ):
        pass
    assert out.is_dir()


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), made_at_once(tmp_path / "bundle"):
        raise SystemExit(143)
    assert not list(tmp_path.iterdir())
