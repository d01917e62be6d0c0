"""A network as the `.tflite` file that microcontrollers run."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import nn

from search.bundles.confined import read_frame, write_frame
from search.bundles.int8 import conversion
from search.bundles.int8.conversion import Array
from search.errors import ConfigError, first_line

_LARGEST = 2**28  # bytes of a file


def converted(network: nn.Module, images: Array) -> bytes:
    """`network`, in evaluation mode, in int8; calibrated on `images`, normalized, float32
    (N, C, H, W).

    Raises:
        ConfigError: torch, LiteRT or the quantizer refuses an operation; says which.
    """
    program, pixels, frames = BytesIO(), BytesIO(), BytesIO()
    try:
        torch.export.save(torch.export.export(network, (torch.from_numpy(images[:1]),)), program)
    except Exception as error:  # torch has many, and the module's code its own
        raise ConfigError(f"torch cannot export this network: {first_line(error)}") from None
    np.save(pixels, np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    for each in (program, pixels):
        write_frame(frames, each.getvalue())
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
