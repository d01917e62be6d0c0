"""A kind of data set: one class.  Defined, it joins the list, and `data.kind` names it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from search.config.sections import DataSection
from search.data.images import Named
from search.errors import ConfigError, require_known

Shape = tuple[int, int, int]
Part = Literal["train", "validation", "test"]

_KINDS: dict[str, type[Source]] = {}


def other_size(part: Part, size: tuple[int, ...], trained: tuple[int, ...]) -> str:
    """What is wrong with images of a part whose (height, width, channels) are not the trained."""
    return (
        f"{part} images (height, width, channels) are {size}, but training images {trained}; "
        "--set data.image_size=N resizes all"
    )


class Source(ABC):
    """The images that a `[data]` section names.

    `keep` is whether anything may be written beside them: what is downloaded or decoded.
    """

    kind: ClassVar[str]
    downloads: ClassVar[bool] = False
    by_name: ClassVar[bool] = False  # several sets in one kind: `data.name` tells them apart

    def __init__(self, section: DataSection, *, keep: bool = True) -> None:
        self.section = section
        self.keep = keep

    def __init_subclass__(cls) -> None:
        _KINDS[cls.kind] = cls

    @abstractmethod
    def describe(self) -> tuple[Shape, int]:
        """Shape (channels, height, width) and number of classes, without all the images.

        Raises:
            ConfigError: images that no study can use.
            MachineError: they are not there.
        """

    @abstractmethod
    def read(self, part: Part) -> Named:
        """The images of a part that is there, and the names of the classes.

        Raises:
            ConfigError, MachineError: as `describe` does.
        """

    def has_validation(self) -> bool:
        """Whether there are images of its own to validate on."""
        return False

    def without_test(self) -> str:
        """Why there are no test images, in a few words; nothing where there are some."""
        return ""

    def absent(self) -> str:
        """What `read` would download, in a few words; nothing where all is there."""
        return ""

    @property
    def is_unpacked(self) -> bool:
        """Whether what is there can be read with nothing written."""
        return True

    @property
    def called(self) -> str:
        """What people call these images; the kind, where it has no other name."""
        return self.kind

    @property
    def channels(self) -> int:
        """Of the images as they are read: what the section asks for, else 3."""
        return self.section.channels or 3


def source(section: DataSection, *, keep: bool = True) -> Source:
    """The data set that `section` names.

    Raises:
        ConfigError: there is none of that kind, or one that has a name of its own.
    """
    require_known("data.kind", section.kind, sorted(_KINDS))
    if section.name is not None and not _KINDS[section.kind].by_name:
        kinds = " or ".join(name for name, kind in _KINDS.items() if kind.by_name)
        raise ConfigError(
            f"data.name = {section.name!r}: is for data.kind = {kinds}, not {section.kind}; "
            f"--set data.kind={kinds}, or leave it away"
        )
    return _KINDS[section.kind](section, keep=keep)
