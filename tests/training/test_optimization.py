from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from search.training.optimization import Average, Optimization, rate
from tests.conftest import RECIPE

SGD = dataclasses.replace(RECIPE, optimizer="sgd", weight_decay=5e-2)
RATES = (1.0, 0.5, 0.25)


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).to(memory_format=torch.channels_last)


def _backward(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 3, 8, 8, generator=generator)
    y = torch.randint(0, 5, (16,), generator=generator)
    F.cross_entropy(network(x), y).backward()


@pytest.mark.parametrize("schedule", ["linear", "onecycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_the_rate_peaks_after_the_warm_up_and_ends_at_zero(schedule: str, warmup: float) -> None:
    recipe = dataclasses.replace(SGD, schedule=schedule, warmup=warmup)
    rates = [rate(recipe, step / 100) for step in range(101)]
    peak = round(100 * warmup)
    assert rates[peak] == max(rates) == 1
    assert rates[-1] == 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_one_cycle_is_that_of_torch() -> None:
    """Whose last step is 100 of 101, and whose peak is a step before the share that it is told."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=101, pct_start=31 / 101, final_div_factor=1e12
    )
    rates = []
    for _ in range(101):
        rates += theirs.get_last_lr()
        optimizer.step()
        if len(rates) < 101:
            theirs.step()
    recipe = dataclasses.replace(SGD, schedule="onecycle", warmup=0.3)
    assert [rate(recipe, step / 100) for step in range(101)] == pytest.approx(rates, abs=1e-9)


def test_a_linear_schedule_is_two_straight_lines() -> None:
    recipe = dataclasses.replace(SGD, schedule="linear", warmup=0.3)
    shares = np.linspace(0, 1, 101)
    lines = np.interp(shares, [0, 0.3, 1], [0, 1, 0])
    assert [rate(recipe, share) for share in shares] == pytest.approx(lines)


def test_a_share_of_a_step_is_a_step_of_sgd_at_that_rate() -> None:
    ours, theirs = _network(), _network()
    optimization = Optimization(ours, SGD)
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-2}, {"params": others}]
    sgd = torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=True)
    for seed, share in enumerate(RATES):
        _backward(ours, seed)
        optimization.step(torch.tensor(share))
        _backward(theirs, seed)
        for group in sgd.param_groups:
            group["lr"] = 0.2 * share
        sgd.step()
        sgd.zero_grad()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, reference, atol=1e-6)
        assert mine.grad is None


def test_muon_turns_the_convolution_by_its_rate_and_keeps_its_norm() -> None:
    network = _network()
    optimization = Optimization(network, dataclasses.replace(SGD, optimizer="muon"))
    weight = network[0].weight
    _backward(network, 0)
    optimization.step(torch.tensor(0.0))
    before = weight.detach().clone()
    assert before.norm() == pytest.approx(8**0.5)  # eight rows of norm one
    _backward(network, 1)
    optimization.step(torch.tensor(1.0))
    moved = (weight.detach() - before).permute(0, 2, 3, 1).reshape(8, -1) / 0.1
    # An orthogonalized step: all singular values near one, whatever the gradient's were.
    assert torch.linalg.svdvals(moved).sub(1).abs().max() < 0.5


def test_a_weight_that_asks_for_no_gradient_stays() -> None:
    network = _network()
    network[0].weight.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    optimization = Optimization(network, dataclasses.replace(SGD, optimizer="muon"))
    _backward(network, 0)
    optimization.step(torch.tensor(1.0))
    assert torch.equal(network[0].weight, before["0.weight"])
    assert not torch.equal(network[4].weight, before["4.weight"])


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_scaled_gradients_make_the_same_steps_and_none_where_they_overflow(optimizer: str) -> None:
    recipe = dataclasses.replace(SGD, optimizer=optimizer)
    plain, scaled = _network(), _network()
    reference = Optimization(plain, recipe)
    optimization = Optimization(scaled, recipe, scaled=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        x = torch.randn(16, 3, 8, 8, generator=generator)
        y = torch.randint(0, 5, (16,), generator=generator)
        if step != 2:
            F.cross_entropy(plain(x), y).backward()
            reference.step(torch.tensor(0.5))
            optimization.scaled(F.cross_entropy(scaled(x), y)).backward()
            optimization.step(torch.tensor(0.5))
            # The step that was not taken has let the momenta fade a little.
            tolerance = 1e-6 if step < 2 else 0.005
            for mine, expected in zip(scaled.parameters(), plain.parameters(), strict=True):
                assert torch.allclose(mine, expected, atol=tolerance)
            continue
        before, scale = copy.deepcopy(scaled.state_dict()), optimization.state()[-1]["scale"]
        optimization.scaled(scaled(x).sum() * float("inf")).backward()
        optimization.step(torch.tensor(0.5))
        assert torch.equal(scaled[4].weight, before["4.weight"])
        assert optimization.state()[-1]["scale"] == scale / 2


def test_the_average_is_that_of_torch() -> None:
    network = _network()
    reference = AveragedModel(
        network,
        multi_avg_fn=get_ema_multi_avg_fn(0.9),
        use_buffers=True,
    )
    average = Average(network, steps=10)
    reference.update_parameters(network)  # torch's first update is a copy
    optimization = Optimization(network, SGD)
    for seed in range(3):
        _backward(network, seed)
        optimization.step(torch.tensor(1.0))
        average.update()
        reference.update_parameters(network)
    expected = reference.module.state_dict()
    for name, value in average.network.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, expected[name], atol=1e-6), name
    assert average.network[1].num_batches_tracked == 3
