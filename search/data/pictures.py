"""One image file as uint8 pixels, or a line that names it and says why not.

Upright (EXIF), the first frame of an animation, the first page of a TIFF; transparent pixels
lie on white; CMYK goes through Pillow's plain conversion, color profiles are not applied.  Gray
images of 12 and 16 bits are scaled to 8, so that their white stays white.  What has no white
that anybody could know (floating point, 32 bits) is refused.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from search.data.images import Pixels
from search.errors import ConfigError, first_line

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
}
"""Pillow's formats that are read, and no others: some of the rest start programs."""

_BITS, _PHOTOMETRIC = 258, 262  # tags of a TIFF
_WIDENED = {"L;2": 85, "L;4": 17}  # gray of a PNG, by its bits: what Pillow multiplies it by

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)


def read(path: Path, size: int | None, channels: int) -> Pixels:
    """The image at `path`, uint8 (H, W, `channels`), resized to `size` x `size` where given.

    Raises:
        ConfigError: it cannot be read; names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they do not name the file
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=tuple(FORMATS)) as image:
                _fit_transparency(image)
                scale = 255 / _white(image) if image.mode[0] in "IF" else 1
                upright = _scaled(ImageOps.exif_transpose(image), scale)
                return pixels(_flat(upright), size, channels)
    except Exception as error:  # whatever Pillow stumbles over in a damaged file
        raise ConfigError(f"{path}: not a readable image ({first_line(error)})") from None


def pixels(image: Image.Image, size: int | None, channels: int) -> Pixels:
    """An image of 8 bits as uint8 (H, W, `channels`), resized where `size` is given."""
    image = image.convert("RGB" if channels == 3 else "L")
    if size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _white(image: Image.Image) -> int:
    """The value of white in an image of more than 8 bits."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floating-point numbers" if image.mode == "F" else "integers of more than 16 bits"
        raise ValueError(f"its pixels are {kind}, whose white is unknown: save it in 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC, 1) != 1:
        raise ValueError("its zero is white: save it with zero as black")
    bits: int = tags.get(_BITS, (16,))[0]
    return (1 << bits) - 1


def _fit_transparency(image: ImageFile.ImageFile) -> None:
    """Pillow brings the pixels of a PNG to 8 bits, and leaves their transparent value as it was."""
    value = image.info.get("transparency")
    bits = image.tile[0].args if image.format == "PNG" and image.tile else None
    if bits in _WIDENED and isinstance(value, int):
        image.info["transparency"] = value * _WIDENED[bits]
    elif bits == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in value)


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    if scale == 1:
        return image
    values = np.asarray(image)
    scaled = (values * scale).round().astype(np.uint8)
    if "transparency" in image.info:
        scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(scaled)


def _flat(image: Image.Image) -> Image.Image:
    """The image on white, where parts of it are transparent."""
    if not image.has_transparency_data:
        return image
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
