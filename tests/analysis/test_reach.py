from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.analysis.reach import IDENTITY, LONGEST, Reach, compose, listed, unite, window, within
from search.networks.architecture import ArchitectureError


def test_misaligned_branches_see_more_than_either() -> None:
    joined = unite(window(13, before=14), window(9), size=5)
    assert joined.span == 23
    assert joined.seen == 22


def test_a_stride_leaves_gaps() -> None:
    # A 3x3 layer of stride 1, a 1x1 of stride 4, a 3x3: taps at 0, 4, 8, three pixels each.
    reach = compose(window(3), compose(window(1, 4), window(3), 9), 9)
    assert (reach.span, reach.seen, reach.jump) == (11, 9, 4)


@given(
    taps=st.integers(1, 5),
    stride=st.integers(1, 3),
    before=st.integers(0, 4),
    dilation=st.integers(1, 3),
    unit=st.integers(0, 20),
)
def test_composition_unites_what_its_steps_see(
    taps: int, stride: int, before: int, dilation: int, unit: int
) -> None:
    outer = window(taps, stride, before, dilation)
    inner = Reach(((0, 0b11), (1, 0b101), (1, 0)), shift=2)
    expected = set()
    for tap in range(taps):
        first, mask = inner.at(unit * stride - before + tap * dilation)
        expected |= {first + bit for bit in range(8) if mask >> bit & 1}
    first, mask = compose(outer, inner, 100).at(unit)
    assert {first + bit for bit in range(64) if mask >> bit & 1} == expected


def test_no_unit_sees_further_than_any_image() -> None:
    """Masks of gigabytes, after five strides of 64."""
    far = IDENTITY
    for _ in range(3):
        far = compose(window(1, 64), far, 64)
    assert compose(window(2), far, 64).span == 64**3 + 1
    farther = compose(window(1, 15), far, 64)
    for reads in (window(3), window(1, 64)):
        with pytest.raises(ArchitectureError, match=r"more than 4,194,304 apart"):
            compose(reads, farther, 64)
    with pytest.raises(ArchitectureError, match="apart"):
        window(3, dilation=10**12)


def test_halves_joined_again_are_whole() -> None:
    halves = within(IDENTITY, 0, 8), within(IDENTITY, 8, 16)
    assert unite(*halves, 16).extended == IDENTITY


def test_a_unit_belongs_to_the_piece_that_holds_the_middle_of_what_it_reads() -> None:
    swapped = listed([8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7])
    seen = compose(window(5, before=2), swapped, 16)
    assert [seen.at(unit)[0] for unit in (0, 7, 8, 15)] == [6, 13, -2, 5]
    assert (seen.span, seen.jump) == (5, 1)
    assert compose(swapped, swapped, 16) == IDENTITY


def test_a_mirror_twice_is_none() -> None:
    mirror = Reach(((15, 1),), -1)
    assert mirror.jump == 1
    assert compose(mirror, mirror, 16) == IDENTITY


def test_periods_do_not_multiply_without_end() -> None:
    reach, larger = IDENTITY, Reach(tuple((10 * i // 13, 1) for i in range(13)), 10)
    for _ in range(5):
        reach = compose(window(3, before=1), compose(larger, reach, 64), 64)
    assert len(reach.phases) <= LONGEST
    assert abs(float(reach.step) - (10 / 13) ** 5) < 1 / LONGEST
