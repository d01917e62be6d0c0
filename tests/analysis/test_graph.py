"""What the rules about structure count in a module, and on which map."""

from __future__ import annotations

from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from search.analysis.graph import Structure
from tests.analysis.tracing.net import Net, analyzed


def _to_depth(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return cells.reshape(n, 4 * c, h // 2, w // 2)


@pytest.mark.parametrize(
    ("before", "channels", "below"),
    [
        (nn.PixelUnshuffle(2), 12, 2),
        (Net(lambda n, x: _to_depth(x)), 12, 2),
        (Net(lambda n, x: x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 1, 4, 5, 2, 3)
               .reshape(1, 12, 16, 16)), 12, 2),
        (Net(lambda n, x: F.unfold(x, 4, stride=4).view(1, 48, 8, 8)), 48, 4),
    ],
)  # fmt: skip
def test_a_strided_convolution_hides_no_space_to_depth(
    before: nn.Module, channels: int, below: int
) -> None:
    found = analyzed(nn.Sequential(before, nn.Conv2d(channels, 4, 3, 2, 1)), (3, 32, 32))
    assert found.structure.transitions == 0
    assert found.structure.strays == ("conv 1",)
    assert found.feature_map == (16 // below, 16 // below)


def _involved(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    patches = F.unfold(x, 3, padding=1).view(n, c, 9, h, w)
    return (x.mean(1, keepdim=True)[:, :, None] * patches).sum(2)


@pytest.mark.parametrize(
    ("after", "strays"),
    [
        (Net(lambda n, x: F.unfold(x, 3, padding=1).view(1, 4, 9, 16, 16).amax(2)), ()),
        (Net(lambda n, x: _involved(x)), ()),
        (nn.Sequential(Net(lambda n, x: F.unfold(x, 3, padding=1).view(1, 36, 16, 16)),
                       nn.Conv2d(36, 4, 3, padding=1)), ()),
        (Net(lambda n, x: x.unfold(2, 3, 1).unfold(3, 3, 1).sum((4, 5))), ()),
        (Net(lambda n, x: F.unfold(x, 3, stride=2).view(1, 4, 9, 7, 7).amax(2)),
         ("slicing 1",)),
        (Net(lambda n, x: F.max_pool2d(F.interpolate(x, scale_factor=2.0), 2)),
         ("maxpool 1",)),
    ],
)  # fmt: skip
def test_patches_downsample_by_their_stride_alone(
    after: nn.Module, strays: tuple[str, ...]
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), after)
    found: Structure = analyzed(module, (3, 32, 32)).structure
    assert (found.transitions, found.strays) == (1, strays)


@pytest.mark.parametrize(
    "pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.MaxPool2d(8)]
)
def test_what_is_pooled_after_space_to_depth_is_the_coarse_map(pool: nn.Module) -> None:
    body = [nn.Conv2d(3, 8, 3, 2, 1), nn.PixelUnshuffle(2), pool]
    found = analyzed(nn.Sequential(*body, nn.Flatten(), nn.Linear(32, 10)), (3, 32, 32))
    assert (found.receptive_field, found.feature_map, found.jump) == ((5, 5), (8, 8), (4, 4))
    assert len(found.structure.strays) == 1
    assert not [note for note in found.notes if "whole image" in note]


@pytest.mark.parametrize(
    ("end", "field", "size", "strays"),
    [(nn.PixelUnshuffle(2), 5, 8, 1), (nn.PixelShuffle(2), 3, 32, 0), (nn.Identity(), 3, 16, 0)],
)
def test_the_last_map_is_what_comes_out(end: nn.Module, field: int, size: int, strays: int) -> None:
    found = analyzed(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), end), (3, 32, 32))
    assert (found.receptive_field, found.feature_map) == ((field, field), (size, size))
    assert (len(found.structure.strays), found.structure.output_cells) == (strays, size**2)


@pytest.mark.parametrize("first", ["depthwise", "conv"])
def test_a_linear_layer_over_channels_is_a_pointwise_convolution(first: str) -> None:
    def mixed(net: Any, x: Tensor) -> Tensor:
        result: Tensor = net.point(net.deep(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return result

    deep = nn.Conv2d(3, 3, 3, groups=3 if first == "depthwise" else 1)
    found = analyzed(Net(mixed, deep=deep, point=nn.Linear(3, 4)))
    assert found.structure.separable == (first == "depthwise")
