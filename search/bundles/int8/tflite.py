"""A network as the `.tflite` file that microcontrollers run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import nn

from search.bundles.confined import read_frame, write_frame
from search.bundles.int8 import conversion
from search.bundles.int8.conversion import Array
from search.errors import ConfigError
from search.networks.architecture import Architecture

_LARGEST = 2**28  # bytes of a file


def converted(architecture: Architecture, network: nn.Module, images: Array) -> bytes:
    """`network`, which `architecture` describes, in int8; calibrated on `images`, normalized,
    float32 (N, C, H, W).

    Raises:
        ConfigError: LiteRT or the quantizer refuses an operation; says which.
    """
    weights = {key: t.detach().cpu().contiguous() for key, t in network.state_dict().items()}
    frames = BytesIO()
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    for frame in (json.dumps(architecture.to_json()).encode(), save(weights), pixels.tobytes()):
        write_frame(frames, frame)
    process = subprocess.run(
        [sys.executable, "-c", _CODE],
        input=frames.getvalue(),
        capture_output=True,
        env={**os.environ, "LITERT_TORCH_SHOW_PROGRESS": "n"},
        check=False,
    )
    answer = BytesIO(process.stdout)
    file = read_frame(answer, _LARGEST) if not process.returncode else None
    if not file:
        lines = process.stderr.decode(errors="replace").strip().splitlines() or ["no word why"]
        raise ConfigError(f"LiteRT makes no int8 file of this network: {lines[-1].strip()}")
    return file


_ROOT = str(Path(conversion.__file__).resolve().parents[3])
_CODE = f"import sys; sys.path.insert(0, {_ROOT!r}); from {conversion.__name__} import main; main()"
