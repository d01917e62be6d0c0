from __future__ import annotations

import time

import pytest

from search.display.rhythm import LONGEST, Rhythm


@pytest.mark.parametrize(
    ("took", "later"), [(0.0, 2.0), (0.1, 2.0), (0.5, 5.0), (3.0, 30.0), (900.0, LONGEST)]
)
def test_a_turn_is_a_share_of_the_time_and_a_sleep_delays_none(
    monkeypatch: pytest.MonkeyPatch, took: float, later: float
) -> None:
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rhythm = Rhythm(pause=2.0, share=10)
    assert rhythm.due
    with rhythm.turn():
        now += took
    now = max(now, 50.0 + later - 0.01)
    assert rhythm.due == (took > later)
    now += 0.02
    assert rhythm.due
