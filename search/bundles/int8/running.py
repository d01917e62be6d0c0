"""What a network in int8 makes of images: by onnxruntime, LiteRT and TensorFlow Lite Micro."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.analysis.table import analyze
from search.bundles import isolated
from search.bundles.agreement import batches
from search.bundles.isolated import Predict, RunError
from search.data.images import Images
from search.data.normalization import Normalization
from search.networks.network import Network

Scores = NDArray[np.float32]  # (N, classes); of a file in int8 its whole numbers


class Pair(NamedTuple):
    """A network in both formats."""

    onnx: bytes
    tflite: bytes


@dataclass(frozen=True)
class Runner:
    """Runs the files of one network on images, each in a confined process of its own."""

    network: Network
    normalization: Normalization
    images: Images

    def scores(self, predict: Predict) -> Scores:
        """What `predict` makes of all images.

        Raises:
            RunError: it fails, or gives something else than a number for each class.
        """
        parts = []
        for inputs, _ in batches(self.images, self.normalization):
            part, wanted = predict(inputs), (len(inputs), self.network.classes)
            if part.shape != wanted:
                raise RunError(f"gives {part.shape}, not {wanted}")
            parts.append(part)
        return np.concatenate(parts)

    def onnx(self, graph: bytes) -> Scores:
        """By onnxruntime."""
        with isolated.onnx(graph, self.network.input, self._work) as predict:
            return self.scores(predict)

    def litert(self, file: bytes) -> Scores:
        """By LiteRT's reference kernels: three times as fast as the microcontroller's own, from
        which they differ by a step in less than one number of a hundred."""
        with isolated.litert(file, self.network.input, self._work) as predict:
            return self.scores(predict)

    def micro(self, file: bytes) -> tuple[Scores, Mapping[str, int]]:
        """By TensorFlow Lite Micro; and the bytes of its arena: `total`, `head`, `tail`."""
        room = 4 * analyze(self.network).memory.arena + 2**20
        shape = self.network.input
        with isolated.micro(file, shape, self._work, room) as (arena, predict):
            return self.scores(predict), arena

    @property
    def _work(self) -> float:
        return float(analyze(self.network).macs) * len(self.images)


def correct(scores: Scores, images: Images) -> int:
    """How many of `images` get their own class."""
    return int((scores.argmax(axis=1) == images.labels).sum())


def agreement(scores: Scores, others: Scores) -> float:
    """The share of images that get the same class."""
    return float((scores.argmax(axis=1) == others.argmax(axis=1)).mean())
