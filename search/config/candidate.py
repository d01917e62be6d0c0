"""A candidate: the architecture that is trained and the recipe by which."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

from search.analysis.facts import macs_at
from search.networks.network import Network

Optimizer = Literal["muon", "sgd"]
Schedule = Literal["linear", "onecycle"]


@dataclass(frozen=True)
class Recipe:
    """The training hyperparameters of one candidate.

    `learning_rate` is that of SGD; `matrix_learning_rate` that of Muon, which takes the
    dense convolution weights when `optimizer` is muon.  `warmup` is the share of all
    steps in which the rate rises.  `average` is the horizon, in epochs, of the moving
    average of the weights that is evaluated; 0 evaluates the weights themselves.
    `whitening` fixes the first convolution's filters to principal components of the images'
    patches; `identity` lets dense convolutions begin by passing their input on.  The first
    `small_epochs` (a share of all) train on images whose side is `small_side` of the full
    one, scaled down, or with `small_crop` cut out of them; evaluation is always at full size.
    `class_weights` weighs each class's loss by the inverse of its share of the training images.
    """

    epochs: int
    batch_size: int
    optimizer: Optimizer
    learning_rate: float
    matrix_learning_rate: float
    momentum: float
    matrix_momentum: float
    weight_decay: float
    label_smoothing: float
    schedule: Schedule
    warmup: float
    average: float
    whitening: bool = False
    identity: bool = False
    small_epochs: float = 0.0
    small_side: float = 1.0
    small_crop: bool = False
    augmentation_strength: float = 1.0
    repeat: int = 0
    class_weights: bool = False

    def choices(self) -> dict[str, Any]:
        """Its values by the names that a study's parameters have."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        named = {"augmentation_strength": "augmentation.strength", "repeat": "repeat"}
        return {named.get(name, f"training.{name}"): value for name, value in values.items()}

    def size(self, epoch: int, full: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the training images in `epoch`, counted from 0."""
        if epoch >= small_count(self.small_epochs, self.epochs):
            return full
        return smaller(full, self.small_side)

    def sizes(self, full: tuple[int, int]) -> list[tuple[int, int]]:
        """The sizes of the training images in all epochs, the smallest first."""
        return sorted({self.size(epoch, full) for epoch in range(self.epochs)})


def small_count(share: float, epochs: int) -> int:
    """How many of the `epochs` are small where a `share` of them shall be: begun ones whole."""
    return math.ceil(round(share * epochs, 6))  # 0.55 of 20 is 11.000000000000002


def smaller(full: tuple[int, int], share: float) -> tuple[int, int]:
    """Height and width of images whose sides are about that `share` of the `full` ones: multiples
    of eight pixels, which three strides of two halve evenly."""
    height, width = (min(side, max(8, 8 * round(share * side / 8))) for side in full)
    return height, width


@dataclass(frozen=True)
class Candidate:
    """A proposed architecture, or a given network, with its training hyperparameters."""

    architecture: Network
    recipe: Recipe

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits; equal for candidates that mean the same training.

        What a recipe leaves at its default does not count, so a key that a later version adds
        changes no hash in an older study.
        """
        values = ((key, getattr(self.recipe, key.name)) for key in fields(self.recipe))
        told = {key.name: value for key, value in values if value != key.default}
        content = f"{self.architecture.hash} {told}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def pflop(self, epochs: int, images: int) -> float:
        """The cost of the first `epochs`, which saw `images` in all: 6 x MACs x images, each
        image at the size at which it was trained on; in PFLOP."""
        _, height, width = self.architecture.input
        sizes = [self.recipe.size(epoch, (height, width)) for epoch in range(epochs)]
        macs = sum(sizes.count(size) * macs_at(self.architecture, size) for size in set(sizes))
        return 6 * macs * (images / epochs) / 1e15 if epochs else 0.0
