"""A bundle's test images, read without writing or downloading anything beside them.

A study file that somebody else wrote names where images lie, and nothing more: caches, locks
and whatever is unpacked go to a folder that vanishes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from search.bundles.contents import UnknownError
from search.config.sections import DataSection
from search.data.datasets import load_test
from search.data.images import Images
from search.errors import ConfigError, MachineError

_CIFAR10 = (CIFAR10.base_folder, CIFAR10.filename)


def read_test_set(section: DataSection) -> Images:
    """The test images that `section` names.

    Raises:
        UnknownError: they are not there, or not whole.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            if section.kind != "cifar10":
                return load_test(section, keep=False)
            name = _whole(section.root)
            (Path(scratch) / name).symlink_to((section.root / name).resolve())
            return load_test(section.model_copy(update={"root": Path(scratch)}))
        except (ConfigError, MachineError, OSError, ValueError) as error:
            reason = str(error).replace(scratch, str(section.root)).partition(". ")[0]
            raise UnknownError(f"not measured: {reason}; name them with --data DIR") from None


def _whole(root: Path) -> str:
    """The copy of CIFAR-10 that torchvision would take, rather than download one."""
    folder, archive = _CIFAR10
    listed = [
        *CIFAR10.train_list,
        *CIFAR10.test_list,
        (CIFAR10.meta["filename"], CIFAR10.meta["md5"]),
    ]
    if all(check_integrity(str(root / folder / name), md5) for name, md5 in listed):
        return str(folder)
    if check_integrity(str(root / archive), CIFAR10.tgz_md5):
        return str(archive)
    raise MachineError(f"no whole CIFAR-10 in {root}")
