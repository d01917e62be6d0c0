"""How a network does on images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from search.data.images import Images
from search.data.normalization import Normalization

EVALUATION_BATCH = 1_000


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which layers compute in `dtype`."""
    # What one recording of a CUDA graph has cast, another must not see: nothing is kept.
    return torch.autocast(
        device.type, dtype, enabled=dtype is not torch.float32, cache_enabled=False
    )


@dataclass(frozen=True)
class Evaluation:
    """How a network does on some images; `logits` float32 (N, classes).

    `balanced_accuracy` is the mean over classes of the share of their images that are right.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    logits: NDArray[np.float32]


def evaluate(
    network: nn.Module,
    images: Images,
    normalization: Normalization,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
) -> Evaluation:
    """Loss, accuracy and logits of `network`, which computes in `dtype`, on one view of each of
    `images`."""
    network.eval()
    batches = []
    # Not `inference_mode`: what a module keeps of a run, another training step may use.
    with torch.no_grad(), autocast(device, dtype):
        for batch in images.batches(EVALUATION_BATCH):
            x = normalization(torch.from_numpy(batch.pixels).to(device), dtype)
            batches.append(network(x).float().cpu())
    logits = torch.cat(batches)
    labels = torch.from_numpy(images.labels)
    right = (logits.argmax(1) == labels).double()
    return Evaluation(
        float(F.cross_entropy(logits, labels)),
        float(right.mean()),
        float(np.mean([right[labels == label].mean() for label in np.unique(images.labels)])),
        logits.numpy(),
    )
