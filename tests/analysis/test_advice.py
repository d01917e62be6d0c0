from __future__ import annotations

from search.analysis.advice import advice
from search.analysis.table import analyze
from tests.units import CHOICES, SPACE


def test_advice_on_padding_and_kernels_wider_than_their_map() -> None:
    network = SPACE.architecture({**CHOICES, "C4.dilation": 2}, input=(3, 16, 16))
    lines = advice(analyze(network))
    # C4's map is 2 x 2: of the three taps 2 apart only the middle one lies on it.
    assert any("spreads its kernel over 5 of 2 units" in line for line in lines)
    assert any("89% of what its kernel reads is padding" in line for line in lines)
    assert any("times the image's 16 pixels" in line for line in lines)


def test_no_advice_where_nothing_is_wasted() -> None:
    assert advice(analyze(SPACE.architecture(CHOICES))) == ()
