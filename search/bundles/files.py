"""The directory of a bundle: all of its files at once, or none."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from search.errors import ConfigError, MachineError

SCRATCH = "unfinished-"
"""Begins the name, behind that of the bundle, of a directory that is being filled."""


@contextmanager
def made_at_once(out: Path) -> Iterator[Path]:
    """A directory beside `out` that becomes `out` at the end, or vanishes.

    One process at a time: what a killed one has left is cleared by the next.

    Raises:
        ConfigError: `out` cannot be made, or another process is making it.
        MachineError: the disk does not take it all.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; name a new directory with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.parent / f".{out.name}.lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{out}: another export is making it; name another with --out") from None
    except FileExistsError as error:
        there = error.filename
        raise ConfigError(f"{there}: is no directory; name another with --out") from None
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}; name another with --out") from None
    try:
        for left in out.parent.glob(f"{glob.escape(f'.{out.name}.')}{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.{SCRATCH}", dir=out.parent))
        try:
            yield scratch
            scratch.chmod(0o755)  # mkdtemp lets nobody else in
            scratch.replace(out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise MachineError(f"{error.filename or out}: {error.strerror}") from error
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def write_files(bundle: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files`, by their names, into the directory `bundle`."""
    for name, content in files.items():
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_bytes(content)
