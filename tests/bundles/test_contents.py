"""Files that are no files of a bundle: each is named in one line, before anything is used."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from search.bundles import contents
from search.bundles.bundle import Bundle
from search.bundles.contents import (
    BundleError,
    read_file,
    read_json,
    read_named,
    unnamed,
)
from search.bundles.verify import Check, strange, verify
from tests.bundles.conftest import metrics_of, seal

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are POSIX's")


def replaced(name: str, put: Callable[[Path], object]) -> Callable[[Path], None]:
    def tamper(bundle: Path) -> None:
        (bundle / name).unlink()
        put(bundle / name)

    return tamper


def sparse(size: int) -> Callable[[Path], None]:
    def put(place: Path) -> None:
        with place.open("wb") as file:
            file.truncate(size)

    return put


def link_of(target: str) -> Callable[[Path], None]:
    return lambda place: place.symlink_to(target)


def folder_elsewhere(bundle: Path) -> None:
    (bundle / "figures").rename(bundle.parent / "figures")
    (bundle / "figures").symlink_to("../figures")


def two_names(bundle: Path) -> None:
    os.link(bundle / "README.md", bundle / "figures" / "more.png")


HOSTILE = {
    "a pipe": replaced("model.py", os.mkfifo),
    "metrics a pipe": replaced("metrics.json", os.mkfifo),
    "a link": replaced("model.py", link_of("/etc/passwd")),
    "a link to itself": replaced("model.py", link_of("model.py")),
    "a dangling link": replaced("metrics.json", link_of("nothing")),
    "a link to a device": replaced("README.md", link_of("/dev/zero")),
    "a folder": replaced("model.py", Path.mkdir),
    "metrics a folder": replaced("metrics.json", Path.mkdir),
    "1 GB, sparse": replaced("model.py", sparse(2**30)),
    "metrics 16 GB, sparse": replaced("metrics.json", sparse(2**34)),
    "weights 1 GB, sparse": replaced("model.safetensors", sparse(2**30)),
    "figures elsewhere": folder_elsewhere,
    "two names": two_names,
}


@POSIX
@pytest.mark.parametrize("tamper", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_file_of_a_bundle(committed: Path, tamper: Callable[[Path], None]) -> None:
    tamper(committed)
    (check,) = verify(committed)
    assert (check.name, check.ok) == ("files", False)
    assert len(check.detail.splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    ["a\0b", "../x", "/etc/passwd", "a\x1b]0;owned\x07", "x\u202egnp.exe", "C:\\x", "C:x", "", ".",
     "a//b", "a/./b", "a/../b", "x" * 5_000, "\udc80", "a\nb", "~\x9b31m"],
)  # fmt: skip
def test_names_that_name_no_file(committed: Path, name: str) -> None:
    """Though there is one, wherever a file can have that name, and its digest is right."""
    content = b""
    with suppress(OSError, ValueError):
        (place := committed / name).parent.mkdir(exist_ok=True)
        if not place.exists():
            place.write_bytes(b"found")
        content = place.read_bytes()
    with pytest.raises(BundleError, match="names no file in the bundle") as told:
        read_named(committed, {name: hashlib.sha256(content).hexdigest()}, {})
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 200


def test_files_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 40)
    digests = dict.fromkeys("abc", hashlib.sha256(b"x" * 40).hexdigest())
    assert len(read_named(tmp_path, digests, {})) == 3
    monkeypatch.setattr(contents, "_TOTAL", 100)
    with pytest.raises(BundleError, match="together"):
        read_named(tmp_path, digests, {})
    with pytest.raises(BundleError, match="at most 1,000"):
        read_named(tmp_path, {str(n): "0" * 64 for n in range(1_001)}, {})


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert read_file(tmp_path, "a", 10) == b"x" * 10
    with pytest.raises(BundleError, match="10 bytes, but at most 9"):
        read_file(tmp_path, "a", 9)


def test_files_that_nobody_names_are_named(committed: Path) -> None:
    (committed / "torch.py").write_text("import os\n")  # what `import torch` there would find
    (committed / "figures" / "a\x1b[31m").write_text("")
    (committed / "more").symlink_to("/etc")
    assert unnamed(committed, metrics_of(committed)["files"]) == [
        "figures/a\x1b[31m",
        "more",
        "torch.py",
    ]


def test_a_digest_makes_no_stranger_a_part(committed: Path) -> None:
    assert strange(Bundle.of(committed)) == []
    (committed / "torch.py").write_text("import os\n")
    (committed / "figures" / "samples.png").write_text("<script>")
    metrics = metrics_of(committed)
    metrics["files"]["torch.py"] = ""
    (committed / "metrics.json").write_text(json.dumps(metrics))
    seal(committed)
    assert strange(Bundle.of(committed)) == ["figures/samples.png", "torch.py"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe{}", '{"a": 1}'.encode("utf-16"), b"[]", b"null", b'{"a": 1, "a": 2}',
     b'{"a": {"b": 1, "b": 1}}', b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}',
     b'{"a": 1' + b"0" * 5_000 + b"}", b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
     b"[" * 100_000 + b"]" * 100_000],
)  # fmt: skip
def test_what_is_no_json_object(content: bytes) -> None:
    with pytest.raises(BundleError, match="it") as told:
        read_json(content, "it")
    assert len(str(told.value).splitlines()) == 1


def test_a_check_shows_nothing_raw(committed: Path) -> None:
    metrics = metrics_of(committed)
    metrics["data"]["test_fingerprint"] = "\x1b]0;owned\x07"
    (committed / "metrics.json").write_text(json.dumps(metrics))
    (check,) = verify(committed)
    assert isinstance(check, Check)
    assert check.detail.isprintable()
    assert "owned" in check.detail
