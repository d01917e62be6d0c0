"""Training one candidate, and measuring it.

One view of each image counts: no flips are averaged.  A run is a function of network,
recipe, data and seed: every epoch seeds its order and its dropout from the run's seed
and its own number, so a run resumed from `Training.state` continues as if it had never
stopped.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from search.augmentation import AugmentedEpochs
from search.config import ConfigError, MachineError, Recipe
from search.data import Images, Labels
from search.network import SqueezeExcite

EVALUATION_BATCH = 1_000
DIVERGENCE_INTERVAL = 20  # steps between looks at the loss, each of which waits for the device


class DivergedError(RuntimeError):
    """The loss is no number any more."""


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: for a name that no device has.
        MachineError: where this machine has no such device.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"--device {name}: must be auto, cpu, cuda, cuda:N or mps")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise MachineError(f"--device {name}: this machine has none; try --device auto") from None
    return device


def describe_device(device: torch.device) -> str:
    """The device in words, for people and for results."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return str(device)


def use_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether to compute in bfloat16: as told, or where the device has it in hardware."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


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


@dataclass(frozen=True)
class Evaluation:
    """How a network does on some images; `logits` float32 (N, classes)."""

    loss: float
    accuracy: float
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Normalization:
    """Turns uint8 images (N, H, W, 3) into float ones (N, 3, H, W) in channels_last."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        mean = torch.tensor(self.mean, device=pixels.device) * 255
        scale = 1 / (torch.tensor(self.std, device=pixels.device) * 255)
        return ((pixels - mean) * scale).to(dtype).permute(0, 3, 1, 2)


def evaluate(
    network: nn.Module,
    images: Images,
    normalization: Normalization,
    device: torch.device,
    *,
    bfloat16: bool = False,
) -> Evaluation:
    """Loss, accuracy and logits of `network` on one view of each of `images`."""
    network.eval()
    batches = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        for start in range(0, len(images), EVALUATION_BATCH):
            pixels = torch.from_numpy(images.pixels[start : start + EVALUATION_BATCH])
            x = normalization(pixels.to(device), torch.bfloat16 if bfloat16 else torch.float32)
            batches.append(network(x).float().cpu())
    logits = torch.cat(batches)
    labels = torch.from_numpy(images.labels)
    return Evaluation(
        float(F.cross_entropy(logits, labels)),
        float((logits.argmax(1) == labels).double().mean()),
        logits.numpy(),
    )


def rate(recipe: Recipe, progress: float) -> float:
    """The share of the peak learning rate at `progress`, from 0 to 1, through the training.

    `linear` rises over the warm-up and falls to zero; `onecycle` does both along half
    cosines, from 1/25 (Smith & Topin, 2019).
    """
    if progress < recipe.warmup:
        risen = progress / recipe.warmup
        return risen if recipe.schedule == "linear" else 1 / 25 + 24 / 25 * _half_cosine(risen)
    left = (1 - progress) / (1 - recipe.warmup)
    return left if recipe.schedule == "linear" else _half_cosine(left)


def _half_cosine(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


class Training:
    """The training of one network by one recipe.

    `labels` (N,) are those of the images in `epochs`.  Evaluates on `validation` after
    every epoch where it is given.  `state` and `restore` carry it over interruptions.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        epochs: AugmentedEpochs,
        labels: Labels,
        normalization: Normalization,
        *,
        validation: Images | None,
        device: torch.device,
        bfloat16: bool,
        seed: int,
    ) -> None:
        self.recipe = recipe
        self.history: list[EpochRecord] = []
        self._network = network.to(device).to(memory_format=torch.channels_last)
        self._epochs = epochs
        self._labels = torch.from_numpy(labels)
        self._normalization = normalization
        self._validation = validation
        self._device = device
        self._dtype = torch.bfloat16 if bfloat16 else torch.float32
        self._seed = seed
        self._batch = min(recipe.batch_size, len(labels))
        self._steps = len(labels) // self._batch  # of an epoch; its last few images wait
        self._optimizers = _optimizers(self._network, recipe)
        total = recipe.epochs * self._steps
        self._schedules = [
            LambdaLR(optimizer, lambda step: rate(recipe, min(step / total, 1.0)))
            for optimizer in self._optimizers.all
        ]
        self._average = (
            AveragedModel(
                self._network,
                multi_avg_fn=get_ema_multi_avg_fn(max(0.0, 1 - 1 / (recipe.average * self._steps))),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if recipe.average
            else None
        )

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.history)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is measured and exported: the average where there is one."""
        return self._network if self._average is None else self._average.module

    def run_epoch(self, on_step: Callable[[], None] = lambda: None) -> EpochRecord:
        """Trains one epoch and evaluates; calls `on_step` after every step.

        Raises:
            DivergedError: as soon as the loss is seen to be no finite number.
        """
        started = time.perf_counter()
        sequence = np.random.SeedSequence([self._seed, self.epoch])
        order_seed, dropout_seed = (int(word) for word in sequence.generate_state(2))
        torch.manual_seed(dropout_seed)
        order = torch.randperm(len(self._labels), generator=_generator(order_seed))
        # Trials begin at epochs of their own, so that none is tied to the first few.
        pixels = _tensor(self._epochs.epoch(self._seed + self.epoch))
        self._network.train()
        learning_rate = float(self._schedules[0].get_last_lr()[0])
        loss_sum = torch.zeros((), device=self._device)
        for step in range(self._steps):
            batch = order[step * self._batch : (step + 1) * self._batch]
            loss_sum = loss_sum + self._step(
                pixels[batch].to(self._device, non_blocking=True),
                self._labels[batch].to(self._device, non_blocking=True),
            )
            last = step == self._steps - 1
            if (last or step % DIVERGENCE_INTERVAL == 0) and not math.isfinite(loss_sum.item()):
                raise DivergedError(f"loss is {loss_sum.item()} in epoch {self.epoch + 1}")
            on_step()
        record = self._record(loss_sum.item() / self._steps, learning_rate, started)
        self.history.append(record)
        return record

    def _step(self, pixels: Tensor, labels: Tensor) -> Tensor:
        x = self._normalization(pixels, self._dtype)
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._dtype is torch.bfloat16
        ):
            logits = self._network(x)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizers.step()
        for schedule in self._schedules:
            schedule.step()
        if self._average is not None:
            self._average.update_parameters(self._network)
        return loss.detach()

    def _record(self, train_loss: float, learning_rate: float, started: float) -> EpochRecord:
        result = self.evaluate(self._validation) if self._validation is not None else None
        return EpochRecord(
            epoch=self.epoch + 1,
            train_loss=train_loss,
            validation_loss=result.loss if result else math.nan,
            accuracy=result.accuracy if result else math.nan,
            learning_rate=learning_rate,
            images=(self.epoch + 1) * self._steps * self._batch,
            seconds=time.perf_counter() - started,
        )

    def evaluate(self, images: Images) -> Evaluation:
        """How the network does on `images` now."""
        return evaluate(
            self.evaluated,
            images,
            self._normalization,
            self._device,
            bfloat16=self._dtype is torch.bfloat16,
        )

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs: tensors, numbers, lists and dictionaries."""
        return {
            "network": self._network.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
            "optimizers": [o.state_dict() for o in self._optimizers.all],
            "schedules": [s.state_dict() for s in self._schedules],
            "history": [vars(record) for record in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state` returned in a training made of equal arguments."""
        self._network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        for optimizer, saved in zip(self._optimizers.all, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.history = [EpochRecord(**record) for record in state["history"]]


@dataclass(frozen=True)
class _Optimizers:
    """Nesterov SGD, and Muon for the dense convolutions where the recipe says so.

    torch's Muon takes matrices, so `flat` holds, for each convolution weight, a matrix
    that shares its memory.
    """

    sgd: torch.optim.SGD
    muon: torch.optim.Muon | None
    flat: tuple[tuple[Tensor, nn.Parameter], ...]

    @property
    def all(self) -> list[torch.optim.Optimizer]:
        return [self.sgd] if self.muon is None else [self.sgd, self.muon]

    def step(self) -> None:
        """One update from the gradients, which are gone afterwards."""
        for weight, matrix in self.flat:
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad)
            # Row norms of one on average: the step size alone sets the turning rate.
            matrix.data.mul_(math.sqrt(len(matrix)) / matrix.data.norm())
            weight.grad = None
        for optimizer in self.all:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _optimizers(network: nn.Module, recipe: Recipe) -> _Optimizers:
    dense = set(_trunk_weights(network)) if recipe.optimizer == "muon" else set()
    flat = tuple(
        (weight, nn.Parameter(_as_matrix(weight.data)))
        for weight in network.parameters()
        if weight in dense
    )
    rest = [p for p in network.parameters() if p not in dense]
    sgd = torch.optim.SGD(
        [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
    muon = (
        torch.optim.Muon(
            [matrix for _, matrix in flat],
            lr=recipe.matrix_learning_rate,
            momentum=recipe.matrix_momentum,
            weight_decay=0.0,
            ns_steps=3,
        )
        if flat
        else None
    )
    return _Optimizers(sgd, muon, flat)


def _trunk_weights(network: nn.Module) -> list[Tensor]:
    """The weights of dense convolutions, without those of gates and of the classifier."""
    gates = {
        m for gate in network.modules() if isinstance(gate, SqueezeExcite) for m in gate.modules()
    }
    return [
        module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module not in gates
        and not name.startswith("O.")
    ]


def _as_matrix(weight: Tensor) -> Tensor:
    """(out, in, kh, kw) as (out, in x kh x kw) in the same memory, channels_last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _tensor(array: NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # torch says that it would not keep a writer from read-only memory; nothing writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
