"""Which process this is, and whether another one is gone."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


def identity() -> dict[str, Any]:
    """What tells this process from every other, on all machines."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "pids": _pid_space()}


def _pid_space() -> str:
    """Names the set of processes in which a process id means something.

    Containers share a host's boot id, virtual machines cloned from one image their names, so
    both count, and the namespace of process ids where there are such.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, space = str(round(psutil.boot_time(), -2)), ""
    return hashlib.sha256(f"{socket.gethostname()} {boot} {space}".encode()).hexdigest()[:12]


def is_gone(worker: Mapping[str, Any]) -> bool:
    """Whether the worker's process certainly lives no more; False where nobody here can know."""
    if worker.get("pids") != _pid_space():
        return False
    try:
        return psutil.Process(int(worker["pid"])).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
