"""Fields, jumps and counts as papers and torchvision publish them."""

from __future__ import annotations

import pytest
import torchvision
from torch import nn

from constraints import Limits, check
from search.analysis.tracing.loading import load_factory, make
from search.analysis.tracing.trace import trace
from tests import oracle
from tests.analysis.tracing.net import Net, analyzed

C = nn.Conv2d


@pytest.mark.parametrize(
    ("name", "field", "jump"),
    [
        ("alexnet", 195, 32),
        ("vgg16", 212, 32),
        ("resnet18", 435, 32),
        ("resnet34", 899, 32),
        ("resnet50", 427, 32),
        ("resnet152", 1451, 32),
        ("mobilenet_v2", 491, 32),
        ("densenet121", 2071, 32),
    ],
)
def test_torchvision_against_measured_fields(name: str, field: int, jump: int) -> None:
    found = analyzed(make(load_factory(f"torchvision.models:{name}")), (3, 224, 224))
    assert found.receptive_field == (field, field)
    assert found.jump == (jump, jump)


COUNTED = """
alexnet vgg16 resnet18 resnet50 densenet121 mobilenet_v2 mobilenet_v3_small squeezenet1_1
mnasnet1_0 shufflenet_v2_x1_0 efficientnet_b0 regnet_y_400mf convnext_tiny vit_b_16 swin_t
inception_v3
"""


@pytest.mark.parametrize("name", COUNTED.split())
def test_torchvision_against_the_counts_in_its_metadata(name: str) -> None:
    weights = next(iter(torchvision.models.get_model_weights(name)))
    side = 299 if name == "inception_v3" else 224
    found = analyzed(make(load_factory(f"torchvision.models:{name}")), (3, side, side))
    assert found.parameters == weights.meta["num_params"]
    assert found.macs / 1e9 == pytest.approx(weights.meta["_ops"], abs=6e-4)


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_attention_has_no_receptive_field_and_says_so(name: str) -> None:
    module = make(load_factory(f"torchvision.models:{name}"))
    verdict = check(trace(module, (3, 224, 224)), Limits.from_mapping({"receptive_field": 44}))
    assert verdict.to_json()["receptive_field"] == {"height": None, "width": None}
    assert "attention" in verdict.violations[0].message


def test_auxiliary_heads_do_not_run_but_count_as_parameters() -> None:
    module = make(load_factory("torchvision.models:googlenet"))
    found = analyzed(module, (3, 224, 224))
    assert found.parameters == oracle.parameters(module) == 13_004_888
    assert sum(row.parameters for row in found.layers) == 6_624_904  # published without them
    assert not any(row.name.startswith("aux") for row in found.layers)


def stages(*layers: tuple[int, int]) -> nn.Sequential:
    """Convolutions of (kernel, stride), padded."""
    return nn.Sequential(*(C(1, 1, k, s, k // 2) for k, s in layers))


def vgg_to_third_pool() -> nn.Sequential:
    three = [[C(1, 1, 3, padding=1)] * n + [nn.MaxPool2d(2)] for n in (2, 2, 3)]
    return nn.Sequential(*(layer for stage in three for layer in stage))


def slim_resnet50() -> nn.Sequential:
    """Araujo et al.: the stride stands in the last unit of each block but the last."""

    def unit(stride: int) -> nn.Module:
        return Net(
            lambda net, x: net.long(x) + net.short(x),
            long=stages((1, 1), (3, stride), (1, 1)),
            short=nn.MaxPool2d(1, stride),
        )

    units = [
        unit(2 if last and block < 3 else 1)
        for block, depth in enumerate((3, 4, 6, 3))
        for last in [False] * (depth - 1) + [True]
    ]
    return nn.Sequential(C(1, 1, 7, 2, 3), nn.MaxPool2d(3, 2, 1), *units)


def mobilenet_v1() -> nn.Sequential:
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    return stages((3, 2), *(layer for s in strides for layer in ((3, s), (1, 1))))


def alexnet_v2() -> nn.Sequential:
    first = [C(1, 1, 11, 4), nn.MaxPool2d(3, 2), C(1, 1, 5, padding=2), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*first, *[C(1, 1, 3, padding=1)] * 3, nn.MaxPool2d(3, 2))


@pytest.mark.parametrize(
    ("module", "field", "jump"),
    [
        (alexnet_v2(), 195, 32),
        (vgg_to_third_pool(), 44, 8),
        (slim_resnet50(), 483, 32),
        (mobilenet_v1(), 315, 32),
    ],
)
def test_published_fields(module: nn.Module, field: int, jump: int) -> None:
    found = analyzed(module, (1, 256, 256))
    assert (found.receptive_field, found.jump) == ((field, field), (jump, jump))
