"""Three ways from images to logits, and whether they agree: our own network with the bundle's
weights, the bundle's code with them, and its ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search.bundles.isolated import Predict
from search.data.images import NUMBERS, Images, Labels
from search.data.normalization import Normalization

TOLERANCE = 1e-4  # of logits
PROBES = 256  # random images, fewer where images are large
_COARSE = 4  # pixels of the picture that a smooth image is drawn from

Logits = NDArray[np.float32]


def tolerance(images: int) -> int:
    """Images that sums in another order may tip over the edge."""
    return max(1, images // 1_000)


class DisagreementError(ValueError):
    """Where two ways part, in one line."""


def own(network: nn.Module) -> Predict:
    """The way of a network of ours."""

    def predict(images: Logits) -> Logits:
        with torch.inference_mode():
            logits: Logits = network(torch.from_numpy(images)).numpy()
        return logits

    return predict


def probes(shape: Sequence[int], normalization: Normalization, seed: int) -> Logits:
    """Random images (N, C, H, W), normalized: half of them noise, half smooth, all of the
    mean and the deviation of real ones and within what a pixel can be."""
    count = max(8, min(PROBES, NUMBERS // int(np.prod(shape))))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count - count // 2, *shape, generator=generator)
    coarse = torch.randn(count // 2, shape[0], _COARSE, _COARSE, generator=generator)
    smooth = F.interpolate(coarse, tuple(shape[1:]), mode="bicubic", align_corners=False)
    mean, std = (
        torch.tensor(each)[:, None, None] for each in (normalization.mean, normalization.std)
    )
    images: Tensor = torch.cat([noise, smooth]).clamp(-mean / std, (1 - mean) / std)
    return images.numpy()


def batches(images: Images, normalization: Normalization) -> Iterator[tuple[Logits, Labels]]:
    """The images, normalized, with their labels."""
    for batch in images.batches():
        inputs = normalization(torch.from_numpy(batch.pixels), torch.float32).contiguous().numpy()
        yield inputs, batch.labels


def compare(ways: Mapping[str, Predict], images: Logits, classes: int) -> tuple[Logits, float]:
    """The logits of the first of `ways`, and by how much the others differ at most.

    Raises:
        DisagreementError: by more than rounding, or so that images are of another class: small
            logits are near to any others.
        RunError: a way fails.
    """
    answers = {name: predict(images) for name, predict in ways.items()}
    expected, largest = next(iter(answers.values())), 0.0
    for name, logits in answers.items():
        if logits.shape != (len(images), classes):
            raise DisagreementError(f"{name} gives {logits.shape}, not {(len(images), classes)}")
        difference = np.abs(logits - expected).max(axis=1)
        worst = int(difference.argmax())
        if not difference[worst] <= TOLERANCE:
            raise DisagreementError(
                f"logits of {name} differ by {difference[worst]:.2g}, more than {TOLERANCE:g}, "
                f"on image {worst}"
            )
        tipped = int((logits.argmax(axis=1) != expected.argmax(axis=1)).sum())
        if tipped > tolerance(len(images)):
            raise DisagreementError(
                f"{name} gives another class on {tipped} of {len(images)} images"
            )
        largest = max(largest, float(difference[worst]))
    return expected, largest


@dataclass
class Tally:
    """What the three ways make of labelled images."""

    classes: int
    loss: float = 0.0
    members: NDArray[np.int64] = field(init=False)
    correct: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.members = np.zeros(self.classes, np.int64)
        self.correct = np.zeros(self.classes, np.int64)

    def add(self, logits: Logits, labels: Labels) -> None:
        """Counts one batch."""
        right = logits.argmax(axis=1) == labels
        self.members += np.bincount(labels, minlength=self.classes)
        self.correct += np.bincount(labels[right], minlength=self.classes)
        targets = torch.from_numpy(labels)
        self.loss += float(F.cross_entropy(torch.tensor(logits), targets, reduction="sum"))
