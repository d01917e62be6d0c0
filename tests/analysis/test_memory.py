from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from benchmarks.published.resnet8 import resnet8
from constraints import Limits, check, violations
from search.analysis.arena import planned
from search.analysis.device import Convolution
from search.analysis.memory import memory
from search.analysis.tracing.trace import trace
from search.networks.architecture import Architecture
from search.networks.module import build
from space import SearchSpace
from tests.conftest import candidates

# Random networks of three spaces as LiteRT made files of them, and what TensorFlow Lite Micro's
# own allocator recorded (`python -m benchmarks.int8_memory` does it for 150).
MEASURED = json.loads((Path(__file__).parent / "measured.json").read_text())


def of(activation: str) -> Architecture:
    return SearchSpace(activation=activation).architecture({})


@pytest.mark.parametrize("measured", MEASURED)
def test_arena_and_file_are_what_was_measured_and_never_more(measured: dict[str, object]) -> None:
    found = memory(Architecture.from_json(measured["architecture"]))
    assert found.head == measured["head"]
    assert 0 <= found.tail - measured["tail"] <= 16
    assert measured["flash"] <= found.flash <= 1.01 * measured["flash"]


def test_a_network_that_is_not_of_the_generator_takes_what_was_measured() -> None:
    analysis = check(trace(resnet8()), Limits(())).analysis
    assert (analysis.memory.head, analysis.memory.tail) == (51_264, 6_960)
    assert 86_704 <= analysis.memory.flash <= 1.01 * 86_704
    assert analysis.macs == 12_501_632


def test_the_planner_places_the_largest_first_and_leaves_gaps() -> None:
    # conv, logistic, product, padded: the padded map (step 4) goes first, to 0; the product above
    # it; the logistic below that; and the convolution's output fits nowhere but on top.
    image, map_bytes, padded, after = 3_072, 24_576, 27_744, 10_240
    maps = [(image, 0, 1), (map_bytes, 1, 3), (map_bytes, 2, 3), (map_bytes, 3, 4)]
    assert planned([*maps, (padded, 4, 5), (after, 5, 5)], 5) == padded + 2 * map_bytes


def test_the_planner_needs_what_lives_at_once_and_no_more_where_sizes_fall() -> None:
    generator = random.Random(0)
    sizes = sorted((16 * generator.randint(1, 100) for _ in range(20)), reverse=True)
    chain = [(size, step, step + 1) for step, size in enumerate(sizes)]
    assert planned(chain, 20) == sizes[0] + sizes[1]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "same"),
    [
        (32, 3, 1, 1, 1, True),
        (32, 5, 1, 4, 2, True),
        (32, 3, 1, 0, 1, False),
        (32, 3, 2, 1, 1, False),  # TensorFlow pads 0 before and 1 after
        (33, 3, 2, 1, 1, True),
    ],
)
def test_same_padding_is_tensorflows(
    size: int, kernel: int, stride: int, padding: int, dilation: int, same: bool
) -> None:
    both = [(number, number) for number in (kernel, stride, padding, dilation)]
    layer = Convolution(8, 8, *both)
    assert layer.is_same((size, size)) is same


def test_a_traced_network_takes_what_its_architecture_takes() -> None:
    for architecture in candidates(40):
        graph = trace(build(architecture), architecture.input)
        assert check(graph, Limits(())).analysis.memory == memory(architecture)


@pytest.mark.parametrize("side", [(8, 8), (4, 16), (2, 1)])
def test_a_map_of_one_cell_is_a_map_to_the_tracer_too(side: tuple[int, int]) -> None:
    for architecture in candidates(10):
        small = replace(architecture, input=(3, *side))
        graph = trace(build(small), small.input)
        traced, own = check(graph, Limits(())).analysis, check(small, Limits(())).analysis
        assert traced.memory == own.memory
        assert traced.activation_bytes == own.activation_bytes
        for name in ("depth", "transitions", "separable", "dilated"):
            assert getattr(traced.structure, name) == getattr(own.structure, name)


def test_any_module_has_a_memory() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3),
        nn.Mish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    document = check(trace(module), Limits(())).to_json()["memory"]
    assert document["float32"]["parameter_bytes"] == 4 * sum(p.numel() for p in module.parameters())
    assert document["int8"]["arena_head"] >= 2 * 8 * 32 * 32
    assert document["int8"]["lacking"] == ["mish"]


@pytest.mark.parametrize(("rule", "fact"), [("arena_bytes", "arena"), ("flash_bytes", "flash")])
def test_exactly_the_limit_is_rejected(rule: str, fact: str) -> None:
    network = of("hardswish")
    found = getattr(memory(network), fact)
    (violation,) = violations(network, Limits.from_mapping({rule: found}))
    assert (violation.rule, violation.found, violation.limit) == (rule, found, found)
    assert violations(network, Limits.from_mapping({rule: found + 1})) == ()


def test_what_the_device_lacks_has_no_arena() -> None:
    network, rules = of("gelu"), Limits.from_mapping({"arena_bytes": 10**9})
    (violation,) = violations(network, rules)
    assert violation.found is None
    assert "no gelu" in violation.message
    assert check(network, rules).violations == (violation,)


def test_relu6_costs_what_relu_does() -> None:
    assert memory(of("relu6")) == memory(of("relu"))
    graph = trace(build(of("relu6")))
    assert check(graph, Limits(())).analysis.memory == memory(of("relu6"))
