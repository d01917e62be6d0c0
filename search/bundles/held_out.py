"""A bundle's test images, read without writing or downloading anything beside them.

A study file that somebody else wrote names where images lie, and nothing more.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from search.bundles.contents import UnknownError
from search.config.sections import DataSection
from search.data.datasets import load_named_test
from search.data.images import Images, Named
from search.data.vision import SETS
from search.errors import ConfigError, MachineError

_UNPACKED, _ARCHIVE = SETS["CIFAR10"].entries


def read_test_set(section: DataSection, stranger: Path | None = None) -> Named:
    """The test images that `section` names, and the names of their classes.

    Raises:
        UnknownError: they are not there, or not whole, or lie in the folder `stranger`.
    """
    try:
        if stranger and any(_lies_in(section.root / part, stranger) for part in ("", "test")):
            raise MachineError("what images a bundle brings along proves nothing")
        if section.kind == "cifar10" and not (section.root / _UNPACKED).exists():
            return _unpacked(section)
        return load_named_test(section, keep=False)
    except (ConfigError, MachineError, OSError, ValueError) as error:
        reason = str(error).partition(". ")[0]
        raise UnknownError(f"not measured: {reason}; name the data with --data DIR") from None


def _lies_in(root: Path, folder: Path) -> bool:
    return root.exists() and root.resolve().is_relative_to(folder.resolve())


def _unpacked(section: DataSection) -> Named:
    """CIFAR-10 from its archive, whose digest is known."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    archive = section.root / _ARCHIVE
    if not check_integrity(str(archive), CIFAR10.tgz_md5):
        raise MachineError(f"no CIFAR-10 in {section.root}")
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / _ARCHIVE).symlink_to(archive.resolve())
        return load_named_test(section.model_copy(update={"root": Path(scratch)}))


def copies(images: Images) -> int:
    """How many images are the same as an earlier one: each of those counts once more."""
    return len(images) - len({pixels.tobytes() for pixels in images.pixels})


def fingerprint(images: Images) -> str:
    """Sixteen hexadecimal digits that name images, labels and their order."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(images.pixels.tobytes())
    digest.update(images.labels.tobytes())
    return digest.hexdigest()
