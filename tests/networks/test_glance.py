from __future__ import annotations

import json

from search.networks.architecture import Architecture
from search.networks.glance import glance
from tests.conftest import STUDIES


def test_a_network_at_a_glance() -> None:
    line = glance(Architecture.from_json(json.loads((STUDIES / "baseline.json").read_text())))
    assert line.startswith("C1 2×conv3·32")
    assert [word for word in line.split() if word.startswith("C")] == ["C1", "C2", "C3", "C4"]
    assert line.count("↓") == 2, "the baseline halves twice"
    assert "C3 sep3·32 conv3·64 conv1·64" in line, "its 1x1 convolution keeps the size"
