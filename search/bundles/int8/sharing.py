"""A flatbuffer in which equal lists of whole numbers lie once."""

from __future__ import annotations

from typing import Any

from flatbuffers import Builder
from numpy.typing import NDArray


class SharingBuilder(Builder):  # type: ignore[misc]
    """Writes a list that was written before as a reference to it, which the format allows.

    A file in int8 says for each channel of a convolution twice, in 8 bytes, that its numbers lie
    around 0, and the shape of each feature map anew: an eighth of a small network's file.
    """

    def __init__(self) -> None:
        super().__init__(1024)  # bytes; it grows
        self._places: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802 (its name there)
        """The place of `x` in the file."""
        # One number alone may equal another by chance, and sizes are told before there are any.
        if x.dtype.kind != "i" or x.size == 1:
            return int(super().CreateNumpyVector(x))
        key = x.dtype.str, x.tobytes()
        if key not in self._places:
            self._places[key] = super().CreateNumpyVector(x)
        return self._places[key]
