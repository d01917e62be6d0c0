from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.config.sections import DataSection
from search.data.cache import cached
from search.data.datasets import load, load_test, without_test
from search.data.images import Pixels
from search.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six images, 8 x 8, and no test images."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(6):
            color = (100 * label, 10 * index, 50)
            Image.new("RGB", (8, 8), color).save(tmp_path / "train" / name / f"{index}.png")
    return tmp_path


def _section(folder: Path, **more: object) -> DataSection:
    return DataSection.model_validate(
        {"kind": "imagefolder", "root": folder, "validation": 0.4, **more}
    )


def _empty(cache: Path) -> None:
    cache.write_bytes(b"")


def _cut_off(cache: Path) -> None:
    os.truncate(cache, cache.stat().st_size // 2)


def _pickled(cache: Path) -> None:
    with cache.open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _other_shape(cache: Path) -> None:
    with cache.open("wb") as file:
        np.save(file, np.zeros((3, 8, 8, 3), np.uint8))


def _huge(cache: Path) -> None:
    with cache.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 8, 8, 3)}
        )


def _noise(cache: Path) -> None:
    with cache.open("r+b") as file:
        file.seek(200)
        file.write(b"noise")


def _read_as(text: bytes) -> Callable[[Path], None]:
    """The same bytes, whose digest holds, under a header that reads them as another array."""

    def damage(cache: Path) -> None:
        content = cache.read_bytes()
        cache.write_bytes(content.replace(b"(12, 8, 8, 3)" if text[:1] == b"(" else b"|u1", text))

    return damage


def _directory(cache: Path) -> None:
    cache.unlink()
    cache.mkdir()


def _pipe(cache: Path) -> None:
    cache.unlink()
    os.mkfifo(cache)


_wider, _signed = _read_as(b"(12, 4,16, 3)"), _read_as(b"|i1")
DAMAGES = [
    *(_empty, _cut_off, _pickled, _other_shape, _huge, _noise, _wider, _signed),
    *(_directory, _pipe),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(
    damage: Callable[[Path], None], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = load(_section(folder))
    (cache,) = folder.glob(".train-*.npy")
    damage(cache)
    assert (load(_section(folder)).train.pixels == first.train.pixels).all()
    assert "is not what was written: made again" in caplog.messages[0]
    assert not list(folder.glob(".train-*.part"))
    caplog.clear()
    assert (load(_section(folder)).train.pixels == first.train.pixels).all()
    assert bool(caplog.messages) == (damage is _directory)  # which nothing can take the place of


def test_what_an_interrupted_writer_left_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(_section(folder))
    assert len(list(folder.glob(".train-*.part"))) == 1
    load(_section(folder))
    assert {path.suffix for path in folder.glob(".train-*")} == {".npy", ".lock"}


def test_what_cannot_be_kept_is_decoded_once(tmp_path: Path) -> None:
    (tmp_path / "a.npy").mkdir()
    decoded: list[Pixels] = []

    def decode() -> Pixels:
        decoded.append(np.zeros((2, 8, 8, 3), np.uint8))
        return decoded[-1]

    assert cached(tmp_path / "a.npy", (2, 8, 8, 3), decode) is decoded[0]
    assert len(decoded) == 1


def test_a_link_in_the_place_of_the_cache_is_replaced_and_its_target_is_not(folder: Path) -> None:
    load(_section(folder))
    (cache,) = folder.glob(".train-*.npy")
    target = folder / "precious"
    target.write_text("mine")
    cache.unlink()
    cache.symlink_to(target)
    for name in (cache.with_suffix(".tmp.npy"), cache.with_suffix(".tmp")):
        name.symlink_to(target)
    load(_section(folder))
    assert target.read_text() == "mine"
    assert not cache.is_symlink()


def test_an_image_replaced_by_one_of_the_same_size_and_date_is_read_anew(folder: Path) -> None:
    path = folder / "train" / "cat" / "0.png"
    load(_section(folder))
    before = path.stat()
    other = path.with_name("1.png").read_bytes()
    assert len(other) == before.st_size
    path.write_bytes(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    greens = load(_section(folder)).joined().train.pixels[:, 0, 0, 1]
    assert sorted(greens)[:4] == [0, 10, 10, 10]


def test_nothing_is_written_where_nothing_may_be_kept(folder: Path) -> None:
    before = set(folder.iterdir())
    load(_section(folder), keep=False)
    assert set(folder.iterdir()) == before


def _write(path: Path, content: bytes = b"") -> Path:
    path.write_bytes(content)
    return path


def _bomb(folder: Path) -> Path:
    """A PNG of 60,000 x 60,000 pixels, by its header."""
    path = folder / "bomb.png"
    content = bytearray((folder / "0.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return _write(path, bytes(content))


def _dangling(folder: Path) -> Path:
    path = folder / "link.png"
    path.symlink_to("nowhere.png")
    return path


def _fifo(folder: Path) -> Path:
    path = folder / "pipe.png"
    os.mkfifo(path)
    return path


FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "0 bytes": (lambda f: _write(f / "0.png"), "not a readable image"),
    "bomb": (_bomb, "not a readable image .*decompression bomb"),
    "text": (lambda f: _write(f / "0.png", b"no image at all"), "not a readable image"),
    "postscript": (lambda f: _write(f / "0.png", b"%!PS-Adobe-3.0"), "not a readable image"),
    "dangling link": (_dangling, "a link to nothing"),
    "pipe": (_fifo, "no regular file"),
    "phone": (lambda f: _write(f / "a.HEIC", b"ftypheic"), r"\.heic is not read"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_cannot_be_read_is_named(name: str, folder: Path) -> None:
    make, words = FAULTS[name]
    path = make(folder / "train" / "cat")
    with pytest.raises(ConfigError, match=f"{path}: {words}") as caught:
        load(_section(folder))
    assert len(str(caught.value).splitlines()) == 1


def _refused(section: DataSection, path: Path) -> bool:
    """Whether the images are refused; if so, for the file at `path`."""
    with suppress(ConfigError):
        load(section, keep=False)
        return False
    with pytest.raises(ConfigError, match=str(path)):
        load(section, keep=False)
    return True


def test_each_damaged_image_is_named(folder: Path) -> None:
    """Bytes changed at random, in every format, and every second time its end cut off: read as
    something, or refused by name."""
    rng = np.random.default_rng(0)
    path = folder / "train" / "cat" / "0.png"
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    refused = 0
    for index, kind in enumerate(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM")):
        image.save(path, kind)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for number in range(20):
            end = rng.integers(1, len(whole)) if number % 2 else len(whole)
            damaged = whole[:end].copy()
            damaged[rng.integers(0, len(damaged), 1 + index)] = rng.integers(0, 256)
            path.write_bytes(damaged.tobytes())
            refused += _refused(_section(folder, image_size=8), path)
    assert 75 < refused < 150, "what is cut off is no image, and not every byte matters"


def test_what_macos_leaves_is_no_image_and_notes_are_left_out_aloud(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cats = folder / "train" / "cat"
    for name in ("._0.png", ".DS_Store"):
        _write(cats / name, b"Mac OS X")
    assert len(load(_section(folder)).joined().train) == 12
    assert not caplog.messages
    _write(cats / "labels.txt", b"cat")
    assert len(load(_section(folder)).joined().train) == 12
    assert "labels.txt" in caplog.messages[0]


def test_a_class_with_one_image_is_named(folder: Path) -> None:
    (folder / "train" / "eel").mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "train" / "eel" / "0.png")
    with pytest.raises(ConfigError, match="class eel: training images: 1; at least 2"):
        load(_section(folder))


def test_images_that_are_all_of_one_color_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (8, 8), "gray").save(tmp_path / "train" / name / f"{index}.png")
    with pytest.raises(ConfigError, match="all training images are of one color"):
        load(_section(tmp_path))


def test_a_channel_without_contrast_becomes_zero(folder: Path) -> None:
    data = load(_section(folder))
    assert (data.mean[2], data.std[2]) == (pytest.approx(50 / 255), 1.0)


def test_a_class_whose_name_is_no_text_is_refused(folder: Path) -> None:
    os.mkdir(os.fsencode(folder / "train") + b"/caf\xe9")
    with pytest.raises(ConfigError, match=r"'caf\\udce9': a class's name must be printable UTF-8"):
        load(_section(folder))


def test_a_file_whose_name_is_no_text_is_an_image_like_any_other(folder: Path) -> None:
    path = os.fsencode(folder / "train" / "cat")
    os.rename(path + b"/0.png", path + b"/caf\xe9.png")
    assert len(load(_section(folder)).joined().train) == 12
    assert list(folder.glob(".train-*.npy"))


def test_a_folder_without_test_images_can_split_some_off(folder: Path) -> None:
    plain, split = _section(folder), _section(folder, test=0.25)
    assert "test: no such directory: nothing can be exported" in without_test(plain)
    assert without_test(split) == ""
    test, data = load_test(split), load(split)
    assert (len(test), len(data.train) + len(data.validation)) == (3, 9)
    parts = [{i.tobytes() for i in p.pixels} for p in (test, data.train, data.validation)]
    assert len(set.union(*parts)) == 12, "every image is of its own color"
    moved = load_test(_section(folder, test=0.25, seed=5))
    assert (moved.pixels == test.pixels).all(), "it does not move with the validation images"


def test_a_folder_with_test_images_splits_none_off(folder: Path) -> None:
    (folder / "train").rename(folder / "test")
    shutil.copytree(folder / "test", folder / "train")
    assert without_test(_section(folder)) == ""
    with pytest.raises(ConfigError, match=r"data\.test = 0\.1: .*has test images of its own"):
        load(_section(folder, test=0.1))
    (folder / "test" / "cow").mkdir()
    assert "only one of the two has cow: nothing can be exported" in without_test(_section(folder))
    shutil.rmtree(folder / "test")
    (folder / "test").mkdir()
    assert "at least two class directories are needed" in without_test(_section(folder))
    assert len(load_test(_section(folder, test=0.25))) == 3, "as if it was not there"


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_beside_the_others_are_those_that_judge(name: str, folder: Path) -> None:
    alone = load(_section(folder))
    shutil.copytree(folder / "train", folder / name)
    (folder / name / "dog" / "0.png").unlink()
    data = load(_section(folder))
    assert len(data.train) == len(alone.joined().train) == len(data.validation) + 1
    assert (data.validation.pixels == np.delete(data.train.pixels, 6, 0)).all()


def test_test_images_of_another_size_are_refused(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / "test" / name).mkdir(parents=True)
        Image.new("RGB", (9, 8), "red").save(folder / "test" / name / "0.png")
    with pytest.raises(ConfigError, match=r"test images .* are \(8, 9, 3\), but training images"):
        load_test(_section(folder))
