"""Cutting a batch into shuffled minibatches of one static width."""

from __future__ import annotations

import torch
from torch import Tensor


def shuffled_minibatches(
    valid: Tensor, minibatch_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One epoch: every valid sample once, in a fresh order, dealt as evenly as can be.

    Minibatch sizes differ by at most one, so no small remainder takes a noisy step of its own.
    Shapes depend only on the number of minibatches: short ones are padded with samples that
    ``real`` switches off.

    Args:
        valid: (B,) bool, on any device.
        minibatch_size: M, the largest number of samples of a minibatch.
        generator: a CPU generator, so that every device sees the same order.

    Returns:
        index (K, M) int64 into the batch and real (K, M) bool; K = ceil(valid samples / M), on
        ``valid``'s device.
    """
    samples = valid.nonzero().squeeze(1)
    count = samples.numel()
    minibatches = -(-count // minibatch_size)
    order = torch.randperm(count, generator=generator).to(valid.device)
    # Sample i goes to minibatch i mod K; the places left over at the end are padding.
    places = torch.zeros(minibatches * minibatch_size, dtype=torch.int64, device=valid.device)
    places[:count] = samples[order]
    real = torch.arange(minibatches * minibatch_size, device=valid.device) < count
    index = places.view(minibatch_size, minibatches).T.contiguous()
    return index, real.view(minibatch_size, minibatches).T.contiguous()
