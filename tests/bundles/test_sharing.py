from __future__ import annotations

import numpy as np
import pytest

from search.bundles.int8.sharing import SharingBuilder

ZEROS = np.zeros(5, np.int64)


def test_a_list_that_is_there_already_is_written_once() -> None:
    builder = SharingBuilder()
    first = builder.CreateNumpyVector(ZEROS)
    written = builder.Offset()
    assert builder.CreateNumpyVector(ZEROS.copy()) == first
    assert builder.Offset() == written


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ZEROS, ZEROS[1:]),
        (ZEROS, np.zeros(10, np.int32)),  # the same bytes
        (ZEROS[:1], ZEROS[:1]),  # a single number, whose size must not hang on chance
        (np.ones(5, np.float32), np.ones(5, np.float32)),
    ],
)
def test_other_lists_are_not_shared(one: np.ndarray, other: np.ndarray) -> None:
    builder = SharingBuilder()
    assert builder.CreateNumpyVector(one) != builder.CreateNumpyVector(other)
