"""A network as an ONNX graph in int8: weights per channel, activations by calibration."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from search.bundles.int8.conversion import Array

_BATCH = 50  # images that are calibrated on together


def quantized(graph: bytes, images: Array) -> bytes:
    """The ONNX `graph` with QuantizeLinear and DequantizeLinear around each operation;
    calibrated on `images`, normalized, float32 (N, C, H, W)."""
    with tempfile.TemporaryDirectory() as folder:
        given, ready, made = (str(Path(folder) / name) for name in ("given", "ready", "made"))
        Path(given).write_bytes(graph)
        quant_pre_process(given, ready)
        quantize_static(
            ready,
            made,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(made)
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, images: Array) -> None:
        self._batches: Iterator[dict[str, Any]] = (
            {"images": images[start : start + _BATCH]} for start in range(0, len(images), _BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
