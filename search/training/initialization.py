"""Initial weights that spare a network its first epochs (Page, 2019; Jordan, 2024)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from search.data.normalization import Normalization
from search.training.foreign import Foreign

IMAGES = 500
"""Enough for a covariance of 27 x 27; a thousand patches of each."""
NUMBERS = 2**28
"""In all patches at most: images are fewer where they and the filters are large."""
NOISE = 1e-3
"""A component of less variance, that of a pixel being one, is rounding: scaled up to one, it
would make the network's results differ from one library to the next."""


def pass_on(network: nn.Module) -> None:
    """Lets each dense convolution of `network` begin by passing its input on.

    Of one larger than 1 x 1, as many filters as it has inputs become the identity; filters
    beyond those keep their values.
    """
    for module in network.modules():
        dense = isinstance(module, nn.Conv2d) and module.groups == 1
        # A parametrized weight is made anew for each run.
        if dense and module.kernel_size != (1, 1) and isinstance(module.weight, nn.Parameter):
            nn.init.dirac_(module.weight[: module.in_channels])


def whiten(network: nn.Module, pixels: NDArray[np.uint8], normalization: Normalization) -> None:
    """Sets and freezes the first convolution of `network`.

    Neighboring pixels are alike, so a convolution of raw images spends its first epochs on
    decorrelating them.  The principal components of the images' own patches do that from the
    first step on; the filters stay as they are, and count as parameters all the same.

    `pixels` (N, H, W, 3) are training images.  Each leading principal component of their
    patches takes two filters, one its negative, for an activation cuts one side of each.
    Filters beyond those keep their values.  A first convolution in groups sees no patch
    whole, and is left alone, as is a foreign module that reads images in another way.  So is
    one wider than the images, which hold no patch, and one of a single filter, which would
    stay as chance made it.
    """
    convolution = _first(network)
    if convolution is None or convolution.groups > 1 or convolution.out_channels < 2:
        return
    size, dilation = convolution.kernel_size, convolution.dilation
    spans = (d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True))
    if any(span > side for span, side in zip(spans, pixels.shape[1:3], strict=True)):
        return
    # Spread over the set, which may be sorted by class.
    room = NUMBERS // (pixels[0].size * math.prod(size))
    some = torch.from_numpy(pixels[:: max(1, len(pixels) // max(1, min(IMAGES, room)))])
    patches = F.unfold(normalization(some, torch.float32), size, dilation)
    # Patches of one gray pixel have one variance, which comes without axes.
    length = patches.shape[1]
    covariance = patches.transpose(0, 1).flatten(1).cov().view(length, length)
    variances, components = torch.linalg.eigh(covariance)
    count = min(convolution.out_channels // 2, int((variances > NOISE).sum()))
    order = variances.argsort(descending=True)[:count]
    filters = (components[:, order] / variances[order].sqrt()).T.reshape(
        count, *convolution.weight.shape[1:]
    )
    with torch.no_grad():
        convolution.weight[: 2 * count] = torch.cat([filters, -filters])
    convolution.weight.requires_grad_(False)


def _first(network: nn.Module) -> nn.Conv2d | None:
    if isinstance(network, Foreign):
        return network.first
    return next(m for m in network.modules() if isinstance(m, nn.Conv2d))
