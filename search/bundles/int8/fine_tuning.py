"""Quantization-aware training: a few epochs in which a network feels the steps of int8.

Weights are rounded per channel and feature maps as a whole wherever a microcontroller stores
them, and gradients pass through (Jacob et al., 2018), by torch's own `FakeQuantize`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    FakeQuantize,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
)
from torch.nn.utils.parametrize import register_parametrization

from search.config.candidate import Candidate
from search.networks.module import Residual, SqueezeExcite
from search.training.runs import runs
from search.training.trainer import Trainer

EPOCHS = 3
LEARNING_RATE = 0.005

_INT8 = partial(FakeQuantize, quant_max=127, dtype=torch.qint8)
_WEIGHTS = partial(
    _INT8,
    observer=PerChannelMinMaxObserver,
    quant_min=-127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
)
_MAPS = partial(
    _INT8, observer=MovingAverageMinMaxObserver, quant_min=-128, qscheme=torch.per_tensor_affine
)
_WEIGHTED = (nn.Conv2d, nn.Linear)
_COMBINING = (Residual, SqueezeExcite)
_FOLDED = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6)  # into what stands before
_MOVED = (nn.Dropout, nn.Flatten, nn.Identity)  # the same numbers, wherever they lie
_ORIGINAL = ".parametrizations.weight.original"


def fine_tuned(trainer: Trainer, candidate: Candidate, network: nn.Module) -> nn.Module:
    """`network` after `EPOCHS` more epochs on the study's training images, on the CPU."""
    recipe = replace(
        candidate.recipe,
        epochs=EPOCHS,
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        momentum=0.9,
        schedule="linear",
        warmup=0.1,
        average=0.0,
        small_epochs=0.0,
    )
    image = torch.zeros(1, *candidate.architecture.input)
    training = trainer.training(replace(candidate, recipe=recipe), imitating(network, image))
    while training.epoch < EPOCHS:
        training.run_epoch()
    result = trainer.build(candidate.architecture)
    state = training.evaluated.cpu().state_dict()
    trained = {key.replace(_ORIGINAL, ".weight"): tensor for key, tensor in state.items()}
    result.load_state_dict({key: trained[key] for key in result.state_dict()})
    return result.eval()


def imitating(network: nn.Module, image: Tensor) -> nn.Module:
    """A copy of `network`, which maps images such as `image`, that rounds as int8 does."""
    copied = copy.deepcopy(network).eval()
    stored = dict.fromkeys(_stored(copied, image))
    for part in [part for part in copied.modules() if isinstance(part, _WEIGHTED)]:
        register_parametrization(part, "weight", _WEIGHTS())
    for module in stored:
        module.register_module("int8", _MAPS())
        module.register_forward_hook(_rounded)
    return copied.train(network.training)


def _rounded(module: Any, _: object, output: Tensor) -> Tensor:
    rounded: Tensor = module.int8(output)
    return rounded


def _stored(network: nn.Module, image: Tensor) -> Iterator[nn.Module]:
    """The modules whose results a microcontroller stores."""
    layers = {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, _COMBINING) or not [*part.children()]
    }
    order = runs(network, image, layers)
    for index, run in enumerate(order):
        after = next((r.layer for r in order[index + 1 :] if r.given is run.result), None)
        if not isinstance(run.layer, _MOVED) and not isinstance(after, _FOLDED):
            yield run.layer
