"""What `export --int8` adds to a bundle: the network in int8 in two formats, and as C++.

Calibration images come from the training set, and whether to train on is decided on validation
images; the test images, which are read already, are only counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from search.analysis.device import RUNNING
from search.analysis.table import analyze
from search.bundles.agreement import own
from search.bundles.int8 import c_source, extra
from search.bundles.int8.conversion import Array
from search.bundles.int8.fine_tuning import EPOCHS, fine_tuned
from search.bundles.int8.onnx import quantized
from search.bundles.int8.running import Pair, Runner, Scores, agreement, correct
from search.bundles.int8.tflite import converted
from search.bundles.isolated import RunError
from search.bundles.metrics import Arena, Int8, Int8File
from search.bundles.onnx_graph import onnx_graph
from search.config.candidate import Candidate
from search.data.datasets import Dataset
from search.data.images import Images
from search.display import wording
from search.errors import ConfigError
from search.networks.network import Network
from search.training.foreign import Foreign
from search.training.trainer import Trainer
from search.training.training import DivergedError

CALIBRATION = 300  # images
LEAST = 100
TOLERATED = 0.005  # of accuracy lost, before epochs of training are spent on it


def require(network: Network, images: int) -> None:
    """Accepts a network that can be made int8 here, with so many training images.

    Raises:
        MachineError: the extra is not installed.
        ConfigError: too few images, or an operation that the device lacks.
    """
    extra.require()
    if images < LEAST:
        raise ConfigError(
            f"--int8 needs at least {LEAST} training images to calibrate on, but got {images}"
        )
    lacking = analyze(network).memory.lacking
    if lacking:
        raise ConfigError(
            f"--int8: TensorFlow Lite Micro has no {', '.join(lacking)}; {RUNNING} run there"
        )


@dataclass(frozen=True)
class Made:
    """Files by name, and what `metrics.json` says of them."""

    files: Mapping[str, bytes]
    stated: Int8


@dataclass(frozen=True)
class Maker:
    """Makes the int8 files of a candidate's network.

    `trainer` trains on the images that it was trained on, `dataset` is the split that the
    search saw, `seed` draws the calibration images.
    """

    candidate: Candidate
    dataset: Dataset
    trainer: Trainer
    seed: int
    progress: Callable[[str], None]

    def make(self, network: nn.Module, test: Images) -> Made:
        """The files of `network`, measured on `test`.

        Raises:
            ConfigError: LiteRT, the quantizer or the device refuses an operation.
        """
        try:
            return self._made(network, test)
        except RunError as error:
            raise ConfigError(f"--int8: this network does not run in int8: {error}") from None

    def _made(self, network: nn.Module, test: Images) -> Made:
        self.progress("int8: converting, then counting validation images")
        runner = self._runner(self.dataset.validation)
        exact = self._share(runner, runner.scores(own(network)))
        pair, epochs = self._pair(network), 0
        shares = self._shares(runner, pair)
        lost = exact - shares["tflite"]
        if lost > TOLERATED:
            self.progress(
                f"int8: {wording.percent(lost)} lost; {EPOCHS} epochs that feel its rounding"
            )
            other = self._tuned(network) or pair
            better = self._shares(runner, other)
            if better["tflite"] > shares["tflite"]:
                pair, shares, epochs = other, better, EPOCHS
        self.progress("int8: counting test images as a microcontroller would")
        scores, arena = self._runner(test).micro(pair.tflite)
        stated = Int8(
            calibration_images=min(CALIBRATION, len(self.dataset.train)),
            calibration_seed=self.seed,
            fine_tuning_epochs=epochs,
            validation={"float32": exact, **shares},
            versions=extra.versions(),
            arena=Arena(**arena),
            **self._measured(pair, scores, network, test),
        )
        normalization = self.trainer.normalization
        return Made(c_source.files(pair, stated.arena.total, normalization), stated)

    def _pair(self, network: nn.Module) -> Pair:
        images = self._calibration
        module = network.module if isinstance(network, Foreign) else network
        graph = onnx_graph(module, self.candidate.architecture.input)
        return Pair(quantized(graph, images), converted(module, images))

    def _tuned(self, network: nn.Module) -> Pair | None:
        """`network` after more epochs, in int8; None where they diverge."""
        try:
            return self._pair(fine_tuned(self.trainer, self.candidate, network))
        except DivergedError as error:
            self.progress(f"int8: {error}; it stays without them")
            return None

    @property
    def _calibration(self) -> Array:
        train = self.dataset.train
        count = min(CALIBRATION, len(train))
        drawn = np.random.default_rng(self.seed).choice(len(train), count, replace=False)
        pixels = torch.from_numpy(train.take(np.sort(drawn)).pixels)
        images: Array = self.trainer.normalization(pixels, torch.float32).contiguous().numpy()
        return images

    def _runner(self, images: Images) -> Runner:
        return Runner(self.candidate.architecture, self.trainer.normalization, images)

    def _shares(self, runner: Runner, pair: Pair) -> dict[str, float]:
        scores = {"onnx": runner.onnx(pair.onnx), "tflite": runner.litert(pair.tflite)}
        return {name: self._share(runner, found) for name, found in scores.items()}

    @staticmethod
    def _share(runner: Runner, scores: Scores) -> float:
        return correct(scores, runner.images) / len(runner.images)

    def _measured(
        self, pair: Pair, tflite: Scores, network: nn.Module, test: Images
    ) -> dict[str, Int8File]:
        """Both files by format; `tflite` are the scores of the one, as a device makes them."""
        runner = self._runner(test)
        exact = runner.scores(own(network))
        found = {"onnx": (pair.onnx, runner.onnx(pair.onnx)), "tflite": (pair.tflite, tflite)}
        return {
            name: Int8File(
                bytes=len(content),
                test=self._share(runner, scores),
                test_correct=correct(scores, test),
                agreement=agreement(scores, exact),
            )
            for name, (content, scores) in found.items()
        }
