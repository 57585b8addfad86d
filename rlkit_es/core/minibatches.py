"""Cutting a batch into shuffled minibatches of one static width."""

from __future__ import annotations

import torch
from torch import Tensor


def shuffled_minibatches(
    valid: Tensor, minibatch_size: int, generator: torch.Generator, most: int = 0
) -> tuple[Tensor, Tensor, int]:
    """One epoch: every valid sample once, in a fresh order, dealt as evenly as can be.

    Minibatch sizes differ by at most one, so no small remainder takes a noisy step of its own.
    Shapes do not depend on how many samples are valid: what is short is padded with samples that
    ``real`` switches off.

    Args:
        valid: (B,) bool, on any device.
        minibatch_size: M, the largest number of samples of a minibatch.
        generator: a CPU generator, so that every device sees the same order.
        most: samples that another batch of this size has, if it has more, whose minibatches are to be as
            many.

    Returns:
        index (K, M) int64 into the batch and real (K, M) bool, with K = ceil(B / M), on ``valid``'s
        device; and the number of minibatches, ceil(valid samples / M): the rest of the rows is padding.
    """
    samples = valid.nonzero().squeeze(1)
    minibatches = -(-max(len(samples), most) // minibatch_size)
    shape = (-(-len(valid) // minibatch_size), minibatch_size)
    index = torch.zeros(shape, dtype=torch.int64, device=valid.device)
    real = torch.zeros(shape, dtype=torch.bool, device=valid.device)
    order = torch.randperm(len(samples), generator=generator).to(valid.device)
    if len(samples):
        index[:] = samples[0]  # padding: switched off, but looked at, so it must hold no garbage
    # Dealt like cards: sample i goes to minibatch i mod K, at place i div K.
    dealt = torch.arange(len(samples), device=valid.device)
    minibatch, place = dealt % max(minibatches, 1), dealt // max(minibatches, 1)
    index[minibatch, place] = samples[order]
    real[minibatch, place] = True
    return index, real, minibatches
