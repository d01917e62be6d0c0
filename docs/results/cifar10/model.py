"""The network that trial 0 of study cifar10 found.

186,570 parameters; 12,001,984 multiply-adds for one image; receptive field 69 pixels.
85.74% of 10,000 test images classified correctly.

Weights: network.load_state_dict(safetensors.torch.load_file("model.safetensors")).
"""

from __future__ import annotations

from torch import Tensor, nn

# An image comes as floats in [0, 1], less MEAN, over STD, per channel.
MEAN = (0.49125, 0.48209, 0.446521)
STD = (0.245232, 0.242782, 0.260629)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Conv(nn.Sequential):
    """A convolution over space and channels."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
        )


class Downsampling(nn.Sequential):
    """A strided convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
        )


class Separable(nn.Sequential):
    """A depthwise convolution, then a pointwise one (Chollet, 2017)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
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
            Conv(3, 24),
            Downsampling(24, 40),
        )
        self.C2 = nn.Sequential(
            Residual(Conv(40, 40)),
            Downsampling(40, 64),
        )
        self.C3 = nn.Sequential(
            Conv(64, 64, dilation=2),
            Downsampling(64, 72),
        )
        self.C4 = nn.Sequential(
            Conv(72, 72),
            Separable(72, 160),
        )
        self.O = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(160, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.C1(x)
        x = self.C2(x)
        x = self.C3(x)
        x = self.C4(x)
        return self.O(x)
