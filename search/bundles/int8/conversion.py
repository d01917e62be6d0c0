"""From a network to a `.tflite` file in int8: the work of a process of its own.

LiteRT brings jax, prints its progress, and warns about others; here that disturbs nobody.
Numbers are calibrated by the least and the greatest that images give, weights per channel.
"""

from __future__ import annotations

import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from search.bundles.confined import read_frame, write_frame
from search.errors import first_line

Array = NDArray[np.float32]


def main() -> None:
    """Reads a network as torch exports it and images (N, H, W, C), and answers with the file."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what LiteRT prints is no answer
    program, images = (BytesIO(read_frame(sys.stdin.buffer) or b"") for _ in range(2))
    network = torch.export.load(program).module()
    try:
        write_frame(answer, int8_file(network, np.load(images)))
    except Exception as error:  # LiteRT has many; the first line names the operation
        sys.exit(first_line(error))


def int8_file(network: nn.Module, pixels: Array) -> bytes:
    """`network`, in evaluation mode, as a `.tflite` file in int8; `pixels` are the images that it
    is calibrated on, float32 (N, H, W, C)."""
    return _compact(_quantized(_converted(network, pixels), pixels))


def _converted(network: nn.Module, pixels: Array) -> bytes:
    import litert_torch

    # As microcontrollers read images; otherwise the first operation would transpose them.
    last = litert_torch.to_channel_last_io(network, args=[0])
    model = litert_torch.convert(last, (torch.from_numpy(pixels[:1].copy()),))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.tflite"
        model.export(str(place))
        return place.read_bytes()


def _quantized(model: bytes, pixels: Array) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.quantizer import Quantizer
    from ai_edge_quantizer.recipe import static_wi8_ai8
    from ai_edge_quantizer.recipe_manager import RecipeManager

    ((signature, names),) = Interpreter(model_content=model).get_signature_list().items()
    (given,) = names["inputs"]
    recipes = RecipeManager()
    recipes.load_quantization_recipe(static_wi8_ai8())
    # In order, so that equal images give equal files.
    calibrator = Calibrator(model, num_threads=1, qsv_update_func=_widest)
    calibrator.calibrate({signature: [{given: image[None]} for image in pixels]}, recipes)
    quantizer = Quantizer(model, static_wi8_ai8())
    return bytes(quantizer.quantize(calibrator.get_model_qsvs()).quantized_model or b"")


def _widest(seen: dict[str, Array], image: dict[str, Array]) -> dict[str, Array]:
    """The range of a tensor as `seen`, and as one more image gives it.

    The quantizer's own is a moving average: it forgets all but some twenty images and cuts
    off what is greater than in the mean of them, which cost a network 0.8 % of its accuracy.
    """
    if not seen:
        return image
    return {
        "min": np.minimum(seen["min"], image["min"]),
        "max": np.maximum(seen["max"], image["max"]),
    }


def _compact(model: bytes) -> bytes:
    """The same without what no interpreter needs: names of tensors inside, signatures, notes, and
    the second copy of equal shapes and zero points."""
    from ai_edge_litert.tools import flatbuffer_utils

    from search.bundles.int8.sharing import SharingBuilder

    content: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    content.metadata = content.signatureDefs = content.metadataBuffer = None
    content.description = None
    (graph,) = content.subgraphs
    graph.name = None
    for tensor in graph.tensors:
        tensor.name = None
        tensor.shape = np.array(tensor.shape, np.int32)  # as zero points are, so that it is shared
    graph.tensors[graph.inputs[0]].name = "image"
    graph.tensors[graph.outputs[0]].name = "logits"
    used = sorted({0, *(tensor.buffer for tensor in graph.tensors)})  # 0 must be there, empty
    content.buffers = [content.buffers[number] for number in used]
    for tensor in graph.tensors:
        tensor.buffer = used.index(tensor.buffer)
    builder = SharingBuilder()
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())
