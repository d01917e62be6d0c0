"""uint8 images as a network gets them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Normalization:
    """Turns uint8 images (N, H, W, 3) into float ones (N, 3, H, W) in channels_last.

    `mean` and `std` are per channel, in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(
        self, pixels: Tensor, dtype: torch.dtype, size: tuple[int, int] | None = None
    ) -> Tensor:
        """The images in `dtype`, scaled to `size` (height, width) where that is another."""
        mean, scale = _constants(self, pixels.device)
        x = ((pixels - mean) * scale).permute(0, 3, 1, 2)
        if size is not None and size != x.shape[2:]:
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        return x.to(dtype)


@lru_cache(maxsize=16)
def _constants(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal of the deviation in pixel units, uploaded once: a CUDA graph
    cannot be recorded across an upload."""
    mean = torch.tensor(normalization.mean, device=device) * 255
    return mean, 1 / (torch.tensor(normalization.std, device=device) * 255)
