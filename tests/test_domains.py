from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search.domains import IntRange


@given(st.integers(-50, 50), st.integers(0, 20), st.integers(1, 7), st.floats(-100, 200))
def test_nearest_is_the_nearest_member(low: int, steps: int, step: int, value: float) -> None:
    domain = IntRange(low=low, high=low + steps * step, step=step)
    members = range(low, low + steps * step + 1, step)
    assert domain.nearest(value) in members
    assert abs(domain.nearest(value) - value) == min(abs(member - value) for member in members)
