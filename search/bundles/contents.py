"""The files of a bundle that somebody else may have made: each is read once, and bounded.

What is compared with a digest is what is used: nothing is read again from the disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from search.errors import shortened

Files = Mapping[str, bytes]

_PARSED = 2**21  # bytes of a text that is read for its meaning: far beyond any
_SHOWN = 2**26  # of what is looked at: pages, pictures, logs
_TEXTS = ("metrics.json", "architecture.json", "module.json", "study.toml", "model.py")
_TOTAL = 2**29  # of all files together
_MOST = 1_000  # files


class BundleError(ValueError):
    """What is wrong with a bundle, in one line."""


class UnknownError(LookupError):
    """Why something of a bundle cannot be looked at here, in one line."""


def read_json(content: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `content`; every key once, no number that is not finite.

    Raises:
        BundleError: it is something else.
    """
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=_distinct,
            parse_constant=_no_number,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: {error or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise BundleError(f"{name}: must hold a JSON object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice")
    return content


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def read_file(bundle: Path, name: str, largest: int | None = None) -> bytes:
    """The content of one file, which must lie in the directory `bundle` itself.

    Raises:
        BundleError: it does not, is no ordinary file, or is larger than `largest`.
    """
    _require_inside(name)
    place = bundle.joinpath(*PurePosixPath(name).parts)
    largest = largest or (_PARSED if name in _TEXTS else _SHOWN)
    try:
        if place.parent.resolve() != bundle.resolve().joinpath(*PurePosixPath(name).parts[:-1]):
            raise BundleError(f"{name} is a link")
        # A FIFO would block, a link would lead elsewhere.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        if place.is_symlink():
            raise BundleError(f"{name} is a link")
        with os.fdopen(os.open(place, flags | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise BundleError(f"{name} is no ordinary file with one name")
            if status.st_size > largest:
                raise BundleError(f"{name}: {status.st_size:,} bytes, but at most {largest:,}")
            return file.read(largest)
    except FileNotFoundError:
        raise BundleError(f"{name} is missing") from None
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BundleError(f"{name}: {reason}") from None


def _require_inside(name: str) -> None:
    path = PurePosixPath(name)
    parts = path.parts
    odd = not name.isprintable() or path.is_absolute() or not parts or str(path) != name
    if odd or len(name) > 255 or ".." in parts or "\\" in name or ":" in name:
        raise BundleError(f"{shortened(repr(name))} names no file in the bundle")


def read_named(bundle: Path, digests: Mapping[str, str], largest: Mapping[str, int]) -> Files:
    """The files that `digests` names, with these SHA-256.

    Raises:
        BundleError: they are not there, or not those.
    """
    if len(digests) > _MOST:
        raise BundleError(f"metrics.json: files names {len(digests):,}, but at most {_MOST:,}")
    files: dict[str, bytes] = {}
    left = _TOTAL
    for name, digest in digests.items():
        content = read_file(bundle, name, largest.get(name))
        left -= len(content)
        if left < 0:
            raise BundleError(f"the files are larger than {_TOTAL >> 20} MiB together")
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise BundleError(f"{name}: SHA-256 is {found[:16]}…, but must be {digest[:16]}…")
        files[name] = content
    return files


def unnamed(bundle: Path, named: Iterable[str]) -> list[str]:
    """Files below `bundle` that `named` leaves out; no more than `_MOST` are looked at."""
    known = {"metrics.json", *named}
    return sorted(name for name in islice(_walk(bundle), _MOST) if name not in known)


def _walk(bundle: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(bundle):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *links):
            yield Path(folder, name).relative_to(bundle).as_posix()
