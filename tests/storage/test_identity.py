"""Whose process is gone, and whose nobody here can know."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from search.storage.identity import identity, is_gone


def test_only_a_process_of_this_machine_is_known_to_be_gone() -> None:
    assert not is_gone(identity())
    child = subprocess.Popen([sys.executable, "-c", ""])
    worker = {**identity(), "pid": child.pid}
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(worker), "a launch has not asked yet how it ended"
    child.wait()
    assert is_gone(worker)
    assert not is_gone({**worker, "pids": "another machine"})
    assert not is_gone({})


@pytest.mark.skipif(sys.platform != "linux", reason="others have no namespaces of process ids")
@pytest.mark.parametrize(
    ("owner", "told"), [(socket, "gethostname"), (Path, "read_text"), (os, "readlink")]
)
def test_clones_restarts_and_containers_have_processes_of_their_own(
    owner: object, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = identity()["pids"]
    monkeypatch.setattr(owner, told, lambda *_: "another")
    assert identity()["pids"] != here
