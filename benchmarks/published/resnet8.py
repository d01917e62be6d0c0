"""ResNet-8, the reference of MLPerf Tiny's image classification (CIFAR-10).

    python run_study.py check benchmarks/published/resnet8.py:resnet8

After `resnet_v1_eembc` in github.com/mlcommons/tiny,
benchmark/training/image_classification/keras_model.py (Banbury et al., "MLPerf Tiny
Benchmark", 2021): 16, 32 and 64 filters, convolutions with biases.  Where the stride is 2,
Keras pads the right and the lower edge alone, torch all four; counts are the same.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the stride is 2."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_normalized(channels, width, stride), nn.ReLU(), *_normalized(width, width, 1)
        )
        self.shortcut = nn.Conv2d(channels, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet8() -> nn.Sequential:
    """Maps float images (N, 3, 32, 32) to logits (N, 10)."""
    return nn.Sequential(
        *_normalized(3, 16, 1),
        nn.ReLU(),
        Residual(16, 16, 1),
        Residual(16, 32, 2),
        Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _normalized(channels: int, width: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, width, 3, stride, 1), nn.BatchNorm2d(width)
