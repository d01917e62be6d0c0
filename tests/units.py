"""A space of blocks of 3x3 units, and the choices of one unit a block, 16 wide."""

from __future__ import annotations

from space import SearchSpace

SPACE = SearchSpace.model_validate(
    {
        "block": {
            "depth": {"low": 1, "high": 3},
            "width": {"low": 8, "high": 64, "step": 8},
            "dilation": [1, 2],
        },
        "C4": {"depth": {"low": 1, "high": 2}},
    }
)
# 1 + 2 + 2 + 4 + 4 + 8 + 8 + 16 = 45 pixels are seen.
CHOICES = {name: 1 if "depth" in name or "dilation" in name else 16 for name in SPACE.parameters}
