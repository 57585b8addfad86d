"""Gradients with less of what all samples have in common."""

from __future__ import annotations

from torch import Tensor


def scale_common_gradient(x: Tensor, mean: Tensor, scale: float) -> Tensor:
    """``x`` itself, whose gradient has ``scale`` times its mean over the samples in place of the mean.

    With 0 the weights of a linear layer that ``x`` comes out of have the gradient that they would have if
    its inputs were centred over the samples, and the layers before it are not told to move all samples
    alike: centring of activity and of error signals (Schraudolph, in Neural Networks: Tricks of the Trade,
    1998).

    Args:
        x: (M, D).
        mean: (D,) of ``x`` over the samples, and its gradient followed.
        scale: of the gradient's mean, 0 to 1.

    Returns:
        (M, D) equal to ``x``, bit for bit.
    """
    return x - (1 - scale) * (mean - mean.detach())
