"""What the files of a bundle hold, where a stranger wrote them."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.analysis.table import Analysis, analyze
from search.analysis.traced import TracedModule
from search.bundles.bundle import Bundle
from search.bundles.contents import BundleError
from search.bundles.int8.running import Runner
from search.bundles.isolated import RunError
from search.data.images import Images
from search.data.normalization import Normalization
from search.networks.architecture import Architecture
from tests.bundles.conftest import COMMITTED, metrics_of, seal

NETWORK = Architecture.from_json(json.loads((COMMITTED / "architecture.json").read_text()))


@pytest.mark.parametrize(
    ("kind", "numbers"), [("F8_E8M0", 4), ("F4", 8), ("F8_E4M3", 4), ("BF16", 2), ("U16", 2)]
)
def test_weights_are_of_kinds_that_are_compared(committed: Path, kind: str, numbers: int) -> None:
    place = committed / "model.safetensors"
    content = place.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    head, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    offsets = [len(body), len(body) + 4]
    head["more"] = {"dtype": kind, "shape": [numbers], "data_offsets": offsets}
    text = json.dumps(head).encode()
    place.write_bytes(struct.pack("<Q", len(text)) + text + body + bytes(4))
    seal(committed)
    told = rf"^model\.safetensors: .*({kind}|more is |InvalidHeaderDeserialization)"
    with pytest.raises(BundleError, match=told):
        Bundle.of(committed)


def as_module(bundle: Path, analysis: Analysis) -> None:
    """Makes it one of a module that `analysis` is of."""
    module = TracedModule("mine.py:network", "0" * 64, NETWORK.input, 10, analysis)
    content = {"network": module.to_json(), "parameters": []}
    (bundle / "module.json").write_text(json.dumps(content))
    metrics = metrics_of(bundle)
    del metrics["files"]["model.py"], metrics["files"]["architecture.json"]
    metrics["files"]["module.json"] = "0" * 64
    (bundle / "metrics.json").write_text(json.dumps(metrics))
    seal(bundle)


def test_a_module_of_more_than_any_number_is_told(committed: Path) -> None:
    as_module(committed, replace(analyze(NETWORK), parameters=10**400))
    with pytest.raises(BundleError, match=r"^module\.json: "):
        Bundle.of(committed)


def test_a_receptive_field_of_no_axis_has_no_value(committed: Path) -> None:
    nothing = replace(analyze(NETWORK), receptive_field=())
    as_module(committed, nothing)
    assert [v.rule for v in Bundle.of(committed).verdict.violations] == ["receptive_field"]


def test_five_strides_of_64_are_told(committed: Path) -> None:
    place = committed / "architecture.json"
    content = json.loads(place.read_text())
    units = next(block["units"] for block in content["blocks"] if block["units"])
    channels = units[0]["layers"][0]["in_channels"]
    layer = {"in_channels": channels, "out_channels": channels, "kernel": 1}
    units.insert(0, {"layers": [{**layer, "stride": 64, "padding": 1_024}] * 5})
    place.write_text(json.dumps(content))
    seal(committed)
    with pytest.raises(BundleError, match=r"^architecture\.json: a unit sees pixels more than"):
        Bundle.of(committed)


@pytest.mark.parametrize("shape", [(3, 5, 10), (3,), (3, 9), (1, 10)])
def test_int8_files_give_a_number_for_each_class(shape: tuple[int, ...]) -> None:
    images = Images(np.zeros((3, 32, 32, 3), np.uint8), np.arange(3))
    runner = Runner(NETWORK, Normalization((0.5,) * 3, (0.2,) * 3), images)

    def predict(_: Any) -> Any:
        return np.zeros(shape, np.float32)

    with pytest.raises(RunError, match=r"not \(3, 10\)"):
        runner.scores(predict)
