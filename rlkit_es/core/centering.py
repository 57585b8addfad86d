"""Gradients with less of what all samples have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _alone(share: Tensor) -> Tensor:
    return share


def scale_common_gradient(
    x: Tensor, keep: Tensor, scale: float, count: Tensor, total: Callable[[Tensor], Tensor] = _alone
) -> Tensor:
    """``x`` itself, whose gradient has ``scale`` times its mean over the samples in place of the mean.

    With 0 the weights of a linear layer that ``x`` comes out of have the gradient that they would have if
    its inputs were centred over the samples, and the layers before it are not told to move all samples
    alike: centring of activity and of error signals (Schraudolph, in Neural Networks: Tricks of the Trade,
    1998).

    Args:
        x: (M, D).
        keep: (M,) bool, the samples that the mean is taken over.
        scale: of the mean, 0 to 1.
        count: () how many are kept, among all that ``total`` sums over.
        total: sums a tensor over processes, and its gradient likewise.

    Returns:
        (M, D) equal to ``x``, bit for bit.
    """
    mean = total(torch.where(keep.unsqueeze(-1), x, torch.zeros_like(x)).sum(0)) / count.clamp(min=1)
    return x - (1 - scale) * (mean - mean.detach())
