"""The files of a network in int8; the `.tflite` file also as C++, as the examples of TensorFlow
Lite Micro hold theirs."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import dedent

from search.bundles.int8.running import Pair
from search.data.normalization import Normalization

ONNX, TFLITE = "model.int8.onnx", "model.int8.tflite"
HEADER, SOURCE = "model_data.h", "model_data.cc"
NAMES = (ONNX, TFLITE, HEADER, SOURCE)

_COLUMNS = 12  # bytes of a line


def files(pair: Pair, arena: int, normalization: Normalization) -> dict[str, bytes]:
    """All files of a network in int8, by name; the last two follow from the others."""
    size, mean, std = len(pair.tflite), normalization.mean, normalization.std
    return {
        ONNX: pair.onnx,
        TFLITE: pair.tflite,
        HEADER: header(size, arena, mean, std).encode(),
        SOURCE: source(pair.tflite).encode(),
    }


def header(size: int, arena: int, mean: Sequence[float], std: Sequence[float]) -> str:
    """`model_data.h`: the array, the arena that it needs, and what pixels are normalized by."""
    return dedent(f"""\
        // A network in int8.  It reads images row by row, channels last, as int8:
        //   round((pixel / 255 - kPixelMean[c]) / kPixelStd[c] / input->params.scale)
        //     + input->params.zero_point
        #ifndef MODEL_DATA_H_
        #define MODEL_DATA_H_

        constexpr unsigned int g_model_data_size = {size};
        extern const unsigned char g_model_data[];

        // What TensorFlow Lite Micro allocated on a machine with pointers of 64 bits.
        constexpr unsigned int kTensorArenaSize = {arena};

        constexpr float kPixelMean[] = {{{_floats(mean)}}};
        constexpr float kPixelStd[] = {{{_floats(std)}}};

        #endif  // MODEL_DATA_H_
        """)


def source(file: bytes) -> str:
    """`model_data.cc`: the bytes of `file`."""
    lines = (
        ", ".join(f"0x{byte:02x}" for byte in file[start : start + _COLUMNS])
        for start in range(0, len(file), _COLUMNS)
    )
    body = ",\n    ".join(lines)
    return (
        '#include "model_data.h"\n\n'
        "alignas(16) const unsigned char g_model_data[] = {\n"
        f"    {body},\n}};\n"
    )


def _floats(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.9g}f" for number in numbers)
