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


def flip_a_byte(bundle: Path) -> None:
    content = bytearray((bundle / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (bundle / "model.safetensors").write_bytes(content)


def name_a_file_outside(bundle: Path) -> None:
    (bundle.parent / "outside").write_text("x")
    change_names(
        bundle, lambda files: files.update({"../outside": hashlib.sha256(b"x").hexdigest()})
    )


def change_names(bundle: Path, change: Callable[[dict[str, str]], object]) -> None:
    metrics = metrics_of(bundle)
    change(metrics["files"])
    (bundle / "metrics.json").write_text(json.dumps(metrics))


def claim_many_parameters(bundle: Path) -> None:
    metrics = metrics_of(bundle)
    metrics["parameters"] = 2**40
    (bundle / "metrics.json").write_text(json.dumps(metrics))
    replaced("model.safetensors", sparse(2**30))(bundle)


def garbled(name: str, content: bytes) -> Callable[[Path], None]:
    """With the right digest."""

    def tamper(bundle: Path) -> None:
        (bundle / name).write_bytes(content)
        seal(bundle)

    return tamper


# What is done to a bundle, and what is said of it.
HOSTILE = {
    "a pipe": (replaced("model.py", os.mkfifo), "model.py is no ordinary file"),
    "metrics a pipe": (replaced("metrics.json", os.mkfifo), "metrics.json is no ordinary file"),
    "a link": (replaced("model.py", link_of("/etc/passwd")), "model.py is a link"),
    "a link to itself": (replaced("model.py", link_of("model.py")), "model.py is a link"),
    "a dangling link": (replaced("metrics.json", link_of("nothing")), "metrics.json is a link"),
    "a link to a device": (replaced("README.md", link_of("/dev/zero")), "README.md is a link"),
    "a folder": (replaced("model.py", Path.mkdir), "model.py: Is a directory"),
    "metrics a folder": (replaced("metrics.json", Path.mkdir), "metrics.json: Is a directory"),
    "a large text": (
        replaced("model.py", sparse(2**21 + 1)),
        "model.py: 2,097,153 bytes, but at most 2,097,152",
    ),
    "a large picture": (
        replaced("figures/funnel.png", sparse(2**26 + 1)),
        "figures/funnel.png: 67,108,865 bytes, but at most 67,108,864",
    ),
    "metrics 16 GB, sparse": (
        replaced("metrics.json", sparse(2**34)),
        "bytes, but at most 2,097,152",
    ),
    "weights 1 GB, sparse": (replaced("model.safetensors", sparse(2**30)), "bytes, but at most 2,"),
    "weights 1 GB, as stated": (claim_many_parameters, "bytes, but at most 536,870,912"),
    "figures elsewhere": (folder_elsewhere, ".png is a link"),
    "two names": (two_names, "README.md is no ordinary file with one name"),
    "a byte": (flip_a_byte, "model.safetensors: SHA-256 is "),
    "a missing figure": (
        lambda bundle: (bundle / "figures" / "funnel.png").unlink(),
        "figures/funnel.png is missing",
    ),
    "a file outside": (name_a_file_outside, "'../outside' names no file in the bundle"),
    "weights unnamed": (
        lambda bundle: change_names(bundle, lambda files: files.pop("model.safetensors")),
        "metrics.json does not name model.safetensors",
    ),
    "no network": (
        garbled("architecture.json", b'{"version": 1, "blocks": 3}'),
        "architecture.json: ",
    ),
    "no weights": (garbled("model.safetensors", b"nothing"), "model.safetensors: "),
}


@POSIX
@pytest.mark.parametrize(("tamper", "told"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_file_of_a_bundle(
    committed: Path, tamper: Callable[[Path], None], told: str
) -> None:
    tamper(committed)
    (check,) = verify(committed)
    assert (check.name, check.ok) == ("files", False)
    assert told in check.detail
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
