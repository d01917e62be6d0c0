"""How a gradient becomes a step: schedule, SGD, Muon, and the average of the weights.

Nothing here waits for the device, so that a CUDA graph can hold all of it.  What is done to
every tensor is done to all at once (torch's `_foreach_*`, on which its own optimizers are
built): on a GPU the kernels of a small network's step take less time than their launches.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from search.config.candidate import Recipe
from search.networks.module import SqueezeExcite
from search.training.foreign import Foreign


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


class Optimization:
    """Nesterov SGD, and Muon for the dense convolutions where the recipe says so.

    `scaled` keeps small gradients of float16 from becoming zero: torch's gradient scaler, but
    for its decision whether to step, which would wait for the device.

    torch's Muon takes matrices, so `_flat` holds, for each of its convolution weights, a
    matrix that shares its memory.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, *, scaled: bool = False) -> None:
        trained = [p for p in network.parameters() if p.requires_grad]
        dense = set(_trunk_weights(network)) if recipe.optimizer == "muon" else set()
        self._flat = [(p, nn.Parameter(_as_matrix(p.data, p))) for p in trained if p in dense]
        rest = [p for p in trained if p not in dense]
        self._weights = [*rest, *(matrix for _, matrix in self._flat)]
        self._before = [torch.empty_like(weight) for weight in self._weights]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(
                [
                    {
                        "params": [p for p in rest if p.ndim > 1],
                        "weight_decay": recipe.weight_decay,
                    },
                    {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
                ],
                lr=recipe.learning_rate,
                momentum=recipe.momentum,
                nesterov=recipe.momentum > 0,
            )
        ]
        if self._flat:
            muon = torch.optim.Muon(
                [matrix for _, matrix in self._flat],
                lr=recipe.matrix_learning_rate,
                momentum=recipe.matrix_momentum,
                weight_decay=0.0,
                ns_steps=3,
            )
            self._optimizers.append(muon)
        self._scaler = torch.amp.GradScaler(self._weights[0].device.type, enabled=scaled)

    def scaled(self, loss: Tensor) -> Tensor:
        """What to call `backward` on."""
        return self._scaler.scale(loss)

    def step(self, share: Tensor) -> None:
        """One update from the gradients, which are gone afterwards.

        The optimizers step at the peak rate, and `share`, a tensor of no dimension, says
        how much of that step is taken: they would bake a rate that is a number into a
        CUDA graph.  Of gradients that are no numbers, none is taken.
        """
        for weight, matrix in self._flat:
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad, weight)
            weight.grad = None
        self._normalize()
        if self._scaler.is_enabled():
            share = share * self._unscale()
        weights = [weight.detach() for weight in self._weights]
        torch._foreach_copy_(self._before, weights)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        steps = torch._foreach_sub(weights, self._before)
        torch._foreach_mul_(steps, share)
        torch._foreach_copy_(weights, torch._foreach_add(self._before, steps))

    def _normalize(self) -> None:
        """Row norms of one on average: the step size alone sets the turning rate."""
        matrices = [matrix.detach() for _, matrix in self._flat]
        if matrices:
            norms = torch._foreach_norm(matrices)
            torch._foreach_div_(norms, [math.sqrt(len(matrix)) for matrix in matrices])
            torch._foreach_div_(matrices, norms)

    def _unscale(self) -> Tensor:
        """Takes the scale out of the gradients; 1 where all are numbers, else 0."""
        for optimizer in self._optimizers:
            self._scaler.unscale_(optimizer)
        flags = [
            flag
            for optimizer in self._optimizers
            for flag in self._scaler._found_inf_per_device(optimizer).values()
        ]
        found = torch.stack(flags).amax()  # before `update`, which adds them up in place
        self._scaler.update()
        for weight in self._weights:  # momenta must not take in what is no number
            if weight.grad is not None:
                weight.grad.nan_to_num_(0.0, 0.0, 0.0)
        return 1.0 - found

    def state(self) -> list[dict[str, Any]]:
        """The momenta and the scale, for `restore`."""
        return [*(part.state_dict() for part in self._optimizers), self._scaler.state_dict()]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Takes up what `state` returned."""
        *momenta, scale = state
        for optimizer, saved in zip(self._optimizers, momenta, strict=True):
            optimizer.load_state_dict(saved)
        self._scaler.load_state_dict(scale)


class Average:
    """The exponential moving average of a network's weights and statistics over steps."""

    def __init__(self, network: nn.Module, steps: float) -> None:
        self.network = copy.deepcopy(network)
        self._source = network
        self._share = min(1.0, 1 / steps)
        self._means, self._copies = _tensors(self.network)
        self._values, self._counts = _tensors(network)

    def update(self) -> None:
        """Moves the average towards the network as it is now."""
        if isinstance(self._source, Foreign):  # it may put others in the place of its buffers
            self._values, self._counts = _tensors(self._source)
        torch._foreach_lerp_(self._means, self._values, self._share)
        if self._counts:
            torch._foreach_copy_(self._copies, self._counts)


def _tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and statistics, which are averaged; counts of batches, which are not."""
    tensors = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    return floats, [tensor for tensor in tensors if not tensor.is_floating_point()]


def _trunk_weights(network: nn.Module) -> list[Tensor]:
    """The weights of dense convolutions, without those of gates and of the classifier."""
    if isinstance(network, Foreign):
        return network.trunk
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


def _as_matrix(tensor: Tensor, weight: Tensor) -> Tensor:
    """(out, in, kh, kw) as (out, in x kh x kw), in the order in which `weight` lies in memory:
    itself, and no copy, where `tensor` is the weight."""
    if not weight.is_contiguous():  # channels_last
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(len(tensor), -1)
