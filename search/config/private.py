"""Files and folders that are for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it makes is for its owner alone."""
    return os.open(path, flags, 0o600)


def make_private(folder: Path) -> None:
    """Makes `folder`, and what it lies in, for their owner alone; what is there stays as it is."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
