"""The network that trial 0 of study cifar10-best found.

194,058 parameters; 28,216,576 multiply-adds for one image; receptive field 83 pixels.
90.06% of 10,000 test images classified correctly.

Weights: network.load_state_dict(safetensors.torch.load_file("model.safetensors")).
"""

from __future__ import annotations

from torch import Tensor, nn

# An image comes as floats in [0, 1], less MEAN, over STD, per channel.
MEAN = (0.49131, 0.482151, 0.446615)
STD = (0.245223, 0.242787, 0.260637)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Conv(nn.Sequential):
    """A convolution over space and channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.Hardswish(),
        )


class Downsampling(nn.Sequential):
    """A strided convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=2, dilation=2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.Hardswish(),
        )


class Separable(nn.Sequential):
    """A depthwise convolution, then a pointwise one (Chollet, 2017)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.Hardswish(),
        )


class SeparableDownsampling(nn.Sequential):
    """A strided depthwise convolution, then a pointwise one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.Hardswish(),
        )


class Residual(nn.Module):
    """Adds its input to what `body` makes of it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Network(nn.Module):
    """Maps images (N, 3, 32, 32) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.C1 = nn.Sequential(
            Conv(3, 32),
            Downsampling(32, 96),
        )
        self.C2 = nn.Sequential(
            *(Residual(Separable(96, 96)) for _ in range(6)),
            SeparableDownsampling(96, 128),
        )
        self.C3 = nn.Sequential(
            *(Residual(Separable(128, 128)) for _ in range(3)),
            SeparableDownsampling(128, 128),
        )
        self.C4 = nn.Sequential(
            Residual(Separable(128, 128)),
        )
        self.O = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.C1(x)
        x = self.C2(x)
        x = self.C3(x)
        x = self.C4(x)
        return self.O(x)
