"""What becomes of the kinds of pixels: the same scene, whatever it is saved as."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.data.pictures import read
from search.errors import ConfigError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GRAY = Image.fromarray(RAMP)
COLOR = Image.fromarray(np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1))


def _sixteen(path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)


def _twelve_bit_tiff(path: Path) -> None:
    """As microscopes write it: two values in three bytes, white at 4095."""
    values = (RAMP.astype(np.uint32) * 4095 // 255).ravel()
    first, second = values[::2], values[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
    data = packed.astype(np.uint8).tobytes()
    tags = [
        (256, 16), (257, 16), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16),
        (279, len(data)),
    ]  # fmt: skip
    pad = -len(data) % 2
    directory = len(tags).to_bytes(2, "little")
    for tag, value in tags:
        directory += tag.to_bytes(2, "little") + (4).to_bytes(2, "little")
        directory += (1).to_bytes(4, "little") + value.to_bytes(4, "little")
    where = (8 + len(data) + pad).to_bytes(4, "little")
    path.write_bytes(b"II*\0" + where + data + bytes(pad) + directory + bytes(4))


SAME_GRAY: dict[str, Callable[[Path], None]] = {
    "8.png": GRAY.save,
    "16.png": _sixteen,
    "16.tif": _sixteen,
    "16.pgm": _sixteen,
    "16.jp2": _sixteen,
    "12.tif": _twelve_bit_tiff,
    "palette.png": GRAY.convert("P").save,
    "plain.gif": GRAY.save,
}


@pytest.mark.parametrize("name", SAME_GRAY)
def test_gray_is_the_same_in_any_depth(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    SAME_GRAY[name](path)
    found = read(path, None, 1)
    assert found.shape == (16, 16, 1)
    assert np.abs(found[..., 0].astype(int) - RAMP).max() <= 1
    assert (read(path, None, 3) == found).all()


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP > 99).save(tmp_path / "a.png")
    assert set(np.unique(read(tmp_path / "a.png", None, 1))) == {0, 255}


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (RAMP.astype(np.float32) / 255, "a.tif"),
        (RAMP.astype(np.int32) * 2**20, "a.tif"),
    ],
    ids=["float", "32 bit"],
)
def test_pixels_whose_white_nobody_knows_are_refused(
    array: np.ndarray, name: str, tmp_path: Path
) -> None:
    Image.fromarray(array).save(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"{name}: .*white is unknown"):
        read(tmp_path / name, None, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_lies_on_white(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((40, 40, 40, 255), (0, 0, 4, 8))
    if mode in ("RGBA", "LA"):
        image.convert(mode).save(path)
    else:
        key = 1 if mode == "P" else (0, 0, 0)
        opaque = Image.new(mode, (8, 8), key)
        if mode == "P":
            opaque.putpalette([40, 40, 40, 0, 0, 0])
        opaque.paste(0 if mode == "P" else (40, 40, 40), (0, 0, 4, 8))
        opaque.save(path, transparency=key)
    found = read(path, None, 3)
    assert (found[:, :4] == 40).all()
    assert (found[:, 4:] == 255).all()


def _png(bits: int, color: bool, values: list[int], transparent: int) -> bytes:
    """A PNG, by its specification (ISO/IEC 15948): one row, gray or of three equal colors, in
    which one value is transparent."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    samples = [value for value in values for _ in range(3 if color else 1)]
    row = int("".join(f"{sample:0{bits}b}" for sample in samples), 2)
    head = struct.pack(">IIBBBBB", len(values), 1, bits, 2 if color else 0, 0, 0, 0)
    key = struct.pack(">H", transparent) * (3 if color else 1)
    row_bytes = row.to_bytes(len(samples) * bits // 8, "big")
    return b"\x89PNG\r\n\x1a\n" + b"".join((
        chunk(b"IHDR", head), chunk(b"tRNS", key),
        chunk(b"IDAT", zlib.compress(b"\0" + row_bytes)), chunk(b"IEND", b""),
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "color"), [(1, False), (2, False), (4, False), (8, False), (16, False), (8, True),
                        (16, True)],
)  # fmt: skip
def test_the_one_transparent_value_of_a_png_is_white(
    bits: int, color: bool, tmp_path: Path
) -> None:
    values = [round(number / 7 * (2**bits - 1)) for number in range(8)]
    transparent = values[1]
    path = tmp_path / "a.png"
    path.write_bytes(_png(bits, color, values, transparent))
    shown = [255 if v == transparent else round(v * 255 / (2**bits - 1)) for v in values]
    found = read(path, None, 1)[0, :, 0]
    assert np.allclose(found, shown, atol=int(bits == 16)), "of color, Pillow has the upper 8 bits"


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.abs(read(tmp_path / "a.png", None, 3).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(orientation: int, tmp_path: Path) -> None:
    """The matrices of the EXIF standard, tag 274: what the camera stored, out of the scene."""
    scene = np.zeros((8, 16, 3), np.uint8)
    scene[:4, :8] = 255  # bright at the upper left
    stored = {
        1: scene, 2: scene[:, ::-1], 3: scene[::-1, ::-1], 4: scene[::-1],
        5: scene.transpose(1, 0, 2), 6: np.rot90(scene), 7: scene[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(scene, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    found = read(tmp_path / "a.jpg", None, 3)
    assert found.shape == scene.shape
    assert np.abs(found.astype(int) - scene).max() < 16


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_an_animation_the_first_frame_counts(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    more = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **more)
    with Image.open(tmp_path / name) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert (read(tmp_path / name, None, 3) == (255, 0, 0)).all()


def test_cmyk_is_read_as_ink(tmp_path: Path) -> None:
    """R = 255 (1 - C) (1 - K), the plain formula."""
    for ink in ((0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255), (0, 0, 128, 64)):
        Image.new("CMYK", (8, 8), ink).save(tmp_path / "a.tif")
        light = 1 - np.array(ink) / 255
        expected = 255 * light[:3] * light[3]
        assert np.abs(read(tmp_path / "a.tif", None, 3) - expected).max() <= 1
        Image.new("CMYK", (8, 8), ink).save(tmp_path / "a.jpg", quality=100)
        assert np.abs(read(tmp_path / "a.jpg", None, 3) - expected).max() <= 4


def test_a_color_image_as_gray_is_its_luminance(tmp_path: Path) -> None:
    COLOR.save(tmp_path / "a.png")
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    found = read(tmp_path / "a.png", None, 1)[..., 0]
    assert np.abs(found - np.asarray(COLOR) @ weights).max() <= 1


def test_resizing_keeps_the_channels(tmp_path: Path) -> None:
    COLOR.save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", 9, 1).shape == (9, 9, 1)
    assert read(tmp_path / "a.png", 9, 3).shape == (9, 9, 3)
