"""The reducers: every mean over samples in a loss or diagnostic is `masked_mean`."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-8


def masked_mean(x: Tensor, keep: Tensor, among: Tensor | None = None) -> Tensor:
    """Mean of ``x`` over the kept samples, divided by the kept count.

    Args:
        x: (M, ...) values; dropped ones may be anything, NaN included.
        keep: (M,) bool.
        among: (W,) bool, ``keep`` of all samples where ``x`` holds only some of them: what is returned is
            then the share of these in the mean over all. None: ``x`` holds them all.

    Returns:
        (...) the mean; 0 where nothing is kept.
    """
    rows = keep.view(*keep.shape, *(1,) * (x.dim() - 1))
    total = torch.where(rows, x, torch.zeros_like(x)).sum(0)
    return total / (keep if among is None else among).sum().clamp(min=1)


def normalize(x: Tensor, keep: Tensor) -> Tensor:
    """Shift and scale ``x`` to mean 0 and standard deviation 1 over the kept samples.

    Args:
        x: (M,) values.
        keep: (M,) bool, the samples that the statistics are taken over.

    Returns:
        (M,) normalised values; those that are kept are 0 where they are equal (a minibatch of one, say).
    """
    deviation = centred(x, keep)
    return deviation / (masked_mean(deviation.square(), keep).sqrt() + _EPSILON)


def explained_variance(value: Tensor, value_target: Tensor, keep: Tensor) -> Tensor:
    """1 - Var(target - value) / Var(target): 1 is a perfect critic, 0 one that predicts the mean.

    Args:
        value: (M,) predictions.
        value_target: (M,) what they are compared with.
        keep: (M,) bool.

    Returns:
        () the explained variance; NaN where the targets do not vary.
    """
    error_variance = masked_mean(centred(value_target - value, keep).square(), keep)
    target_variance = masked_mean(centred(value_target, keep).square(), keep)
    undefined = torch.full_like(target_variance, torch.nan)
    return torch.where(target_variance > 0, 1 - error_variance / target_variance, undefined)


def centred(x: Tensor, keep: Tensor) -> Tensor:
    """``x`` less its kept mean; exactly 0 where the kept values are equal."""
    # Shifted by one of them first: the mean of equal values can be off by a rounding. In the type of x, since
    # compiled code looks beyond the end of a vector of int8 that is 0 throughout.
    shifted = x - x.gather(0, keep.to(x.dtype).argmax().view(1))
    return shifted - masked_mean(shifted, keep)
