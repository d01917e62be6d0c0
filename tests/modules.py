"""Modules as users write them, for tests that train or judge them."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
"""A network, and what is none."""
import random

import torch
from torch import nn
from torch.nn import functional as F


def convolution(before, after, stride=1, dilation=1, groups=1):
    layer = nn.Conv2d(before, after, 3, stride, dilation, dilation, groups, bias=stride > 1)
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU())


class Network(nn.Module):
    """On images of 8x8 or more; a view across channels, a random choice, a buffer put anew."""

    def __init__(self, channels=1, classes=10):
        super().__init__()
        self.stem = convolution(channels, 8)
        self.down = convolution(8, 16, stride=2)
        self.branch = nn.Sequential(convolution(16, 16, groups=16), nn.Conv2d(16, 16, 1))
        self.wide = convolution(16, 16, dilation=2)
        self.register_buffer("seen", torch.zeros(()))
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = self.down(self.stem(x))
        if not self.training or random.random() < 0.9:
            x = x + self.branch(x)
        self.seen = self.seen + 1.0
        x = self.wide(x)
        return self.head(x.view(x.size(0), 16, -1).mean(-1))


def network():
    print("what it prints is no result")
    return Network()


def colored():
    return Network(channels=3)


def several():
    return Network(classes=7)


class Auxiliary(Network):
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Frozen(Network):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


only = Network()


def failing():
    raise RuntimeError("no weights here")
'''


def written(folder: Path, name: str = "mine.py") -> Path:
    """The file of that name with this source."""
    path = folder / name
    path.write_text(SOURCE)
    return path
