"""Initial weights that spare a network its first epochs (Page, 2019; Jordan, 2024)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from search.data.normalization import Normalization

IMAGES = 500
"""Enough for a covariance of 27 x 27; a thousand patches of each."""
NOISE = 1e-3
"""A component of less variance, that of a pixel being one, is rounding: scaled up to one, it
would make the network's results differ from one library to the next."""


def pass_on(network: nn.Module) -> None:
    """Lets each dense convolution of `network` begin by passing its input on.

    Of one larger than 1 x 1, as many filters as it has inputs become the identity; filters
    beyond those keep their values.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size != (1, 1):
            nn.init.dirac_(module.weight[: module.in_channels])


def whiten(network: nn.Module, pixels: NDArray[np.uint8], normalization: Normalization) -> None:
    """Sets and freezes the first convolution of `network`.

    Neighboring pixels are alike, so a convolution of raw images spends its first epochs on
    decorrelating them.  The principal components of the images' own patches do that from the
    first step on; the filters stay as they are, and count as parameters all the same.

    `pixels` (N, H, W, 3) are training images.  Each leading principal component of their
    patches takes two filters, one its negative, for an activation cuts one side of each.
    Filters beyond those keep their values.  A first convolution in groups sees no patch
    whole, and is left alone.
    """
    convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    if convolution.groups > 1:
        return
    size, dilation = convolution.kernel_size[0], convolution.dilation[0]
    # Spread over the set, which may be sorted by class.
    some = torch.from_numpy(pixels[:: max(1, len(pixels) // IMAGES)])
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
