"""Training one candidate, and measuring it.

One view of each image counts: no flips are averaged.  A run is a function of network,
recipe, data and seed: every epoch seeds its order and its dropout from the run's seed
and its own number, so a run resumed from `Training.state` continues as if it had never
stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.config.candidate import Recipe
from search.data.images import Images, Labels
from search.data.normalization import Normalization, cropped
from search.training.cuda_graph import Captured
from search.training.evaluation import Evaluation, autocast, evaluate
from search.training.foreign import Foreign
from search.training.optimization import Average, Optimization, rate

Size = tuple[int, int]
Phase = Literal["augmenting", "training", "evaluating"]
DIVERGENCE_INTERVAL = 20  # steps between looks at the loss, each of which waits for the device


class DivergedError(RuntimeError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch.  `accuracy` and `validation_loss` are those of the validation
    images; `images` counts the training images seen since the first epoch; `seconds` is
    the epoch's own, evaluation included."""

    epoch: int
    train_loss: float
    validation_loss: float
    accuracy: float
    learning_rate: float
    images: int
    seconds: float
    balanced_accuracy: float = math.nan  # which older records lack


class Moment(NamedTuple):
    """Where a training is: in its `phase` of the epoch, counted from 1, of which the share
    `done` of the steps was trained at so many `images_per_second` (None before the first)."""

    epoch: int
    phase: Phase
    done: float
    images_per_second: int | None


class Training:
    """The training of one network by one recipe.

    `epochs` answers with the images of an epoch, uint8 (N, H, W, 3) on `device`, and
    `labels` (N,) are theirs.  Layers compute in `dtype`.  Evaluates on `validation` after
    every epoch where it is given.  `state` and `restore` carry it over interruptions.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        epochs: Callable[[int], Tensor],
        labels: Labels,
        normalization: Normalization,
        *,
        validation: Images | None,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        self.recipe = recipe
        self.history: list[EpochRecord] = []
        self.evaluation: Evaluation | None = None  # of the last epoch, on the validation images
        self._network = _laid_out(network.to(device))
        self._epochs = epochs
        self._labels = torch.from_numpy(labels).to(device)
        weights = _class_weights(labels) if recipe.class_weights else None
        self._weights = None if weights is None else weights.to(device)
        self._normalization = normalization
        self._validation = validation
        self._device = device
        self._dtype = dtype
        self._seed = seed
        self._batch = min(recipe.batch_size, len(labels))
        self._steps = len(labels) // self._batch  # of an epoch; its last few images wait
        self._optimization = Optimization(self._network, recipe, scaled=dtype is torch.float16)
        self._average = (
            Average(self._network, recipe.average * self._steps) if recipe.average else None
        )
        self._captured: dict[Size, Captured] = {}
        self.moment = Moment(1, "augmenting", 0.0, None)

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.history)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is measured and exported: the average where there is one."""
        return self._network if self._average is None else self._average.network

    def run_epoch(self, on_step: Callable[[], None] = lambda: None) -> EpochRecord:
        """Trains one epoch and evaluates; calls `on_step` after every step, and between phases.

        Raises:
            DivergedError: as soon as the loss is seen to be no finite number.
        """
        started = time.perf_counter()
        sequence = np.random.SeedSequence([self._seed, self.epoch])
        order_seed, dropout_seed = (int(word) for word in sequence.generate_state(2))
        torch.manual_seed(dropout_seed)
        order = torch.randperm(len(self._labels), generator=_generator(order_seed))
        order = order.to(self._device)
        # Trials begin at epochs of their own, so that none is tied to the first few.
        self._at("augmenting", 0.0, None, on_step)
        pixels = self._epochs(self._seed + self.epoch)
        train = self._step(self.recipe.size(self.epoch, (pixels.shape[1], pixels.shape[2])))
        rates = self._rates()
        self._network.train()
        loss_sum = torch.zeros((), device=self._device)
        begun = time.perf_counter()
        for step in range(self._steps):
            batch = order[step * self._batch : (step + 1) * self._batch]
            loss_sum = loss_sum + train(pixels[batch], self._labels[batch], rates[step])
            last = step == self._steps - 1
            if (last or step % DIVERGENCE_INTERVAL == 0) and not math.isfinite(loss_sum.item()):
                raise DivergedError(f"loss is {loss_sum.item()} in epoch {self.epoch + 1}")
            trained = (step + 1) * self._batch
            speed = round(trained / (time.perf_counter() - begun))
            self._at("training", (step + 1) / self._steps, speed, on_step)
        self._at("evaluating", 1.0, speed, on_step)
        learning_rate = self.recipe.learning_rate * float(rates[0])
        record = self._record(loss_sum.item() / self._steps, learning_rate, started)
        self.history.append(record)
        return record

    def _at(
        self, phase: Phase, done: float, speed: int | None, on_step: Callable[[], None]
    ) -> None:
        self.moment = Moment(self.epoch + 1, phase, done, speed)
        on_step()

    def _rates(self) -> Tensor:
        """The share of the peak learning rate in each step of this epoch."""
        first, total = self.epoch * self._steps, self.recipe.epochs * self._steps
        shares = [rate(self.recipe, min(1.0, (first + i) / total)) for i in range(self._steps)]
        return torch.tensor(shares, device=self._device)

    def _step(self, size: Size) -> Callable[..., Tensor]:
        """`_train` on images of that size, as a CUDA graph where there is CUDA.

        A foreign module may wait for the device, or draw numbers in Python, which a graph
        would keep for good.
        """
        train = partial(self._train, size)
        if self._device.type != "cuda" or isinstance(self._network, Foreign):
            return train
        if size not in self._captured:
            self._captured[size] = Captured(train)
        return self._captured[size]

    def _train(self, size: Size, pixels: Tensor, labels: Tensor, share: Tensor) -> Tensor:
        """One step on one batch, at `share` of the peak learning rate; its loss."""
        if self.recipe.small_crop and size != pixels.shape[1:3]:
            pixels = cropped(pixels, size)
        x = self._normalization(pixels, self._dtype, size)
        with autocast(self._device, self._dtype):
            logits = self._network(x)
        loss = F.cross_entropy(
            logits.float(),
            labels,
            self._weights,
            label_smoothing=self.recipe.label_smoothing,
        )
        self._optimization.scaled(loss).backward()  # type: ignore[no-untyped-call]
        self._optimization.step(share)
        if self._average is not None:
            self._average.update()
        return loss.detach()

    def _record(self, train_loss: float, learning_rate: float, started: float) -> EpochRecord:
        result = self.evaluate(self._validation) if self._validation is not None else None
        if result and not math.isfinite(result.loss):
            raise DivergedError(f"validation loss is {result.loss} in epoch {self.epoch + 1}")
        self.evaluation = result
        return EpochRecord(
            epoch=self.epoch + 1,
            train_loss=train_loss,
            validation_loss=result.loss if result else math.nan,
            accuracy=result.accuracy if result else math.nan,
            learning_rate=learning_rate,
            images=(self.epoch + 1) * self._steps * self._batch,
            seconds=time.perf_counter() - started,
            balanced_accuracy=result.balanced_accuracy if result else math.nan,
        )

    def evaluate(self, images: Images) -> Evaluation:
        """How the network does on `images` now."""
        return evaluate(
            self.evaluated,
            images,
            self._normalization,
            self._device,
            dtype=self._dtype,
        )

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs: tensors, numbers, lists and dictionaries."""
        return {
            "network": self._network.state_dict(),
            "average": self._average.network.state_dict() if self._average is not None else None,
            "optimizers": self._optimization.state(),
            "history": [vars(record) for record in self.history],
        }

    def result(self) -> dict[str, Any]:
        """What is left to keep of a training at its end: `restore` takes it too."""
        return {
            "network": self.evaluated.state_dict(),
            "history": [vars(record) for record in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state` returned in a training of equal arguments, or is over, as
        the one that `result` was asked of."""
        self.history = [EpochRecord(**record) for record in state["history"]]
        if "optimizers" in state:
            self._network.load_state_dict(state["network"])
            if self._average is not None:
                self._average.network.load_state_dict(state["average"])
            self._optimization.restore(state["optimizers"])
        else:
            self.evaluated.load_state_dict(state["network"])
        if self._validation is not None:
            self.evaluation = self.evaluate(self._validation)


def _laid_out(network: nn.Module) -> nn.Module:
    """In channels_last, but for a foreign module that does not run so."""
    if isinstance(network, Foreign) and not network.takes_channels_last:
        return network
    return network.to(memory_format=torch.channels_last)


def _class_weights(labels: Labels) -> Tensor:
    """Per class, n / (classes x images of the class): all 1 where classes are equally large."""
    counts = np.bincount(labels)
    return torch.from_numpy(len(labels) / (len(counts) * counts)).float()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
