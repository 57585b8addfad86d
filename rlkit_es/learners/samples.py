"""What every rank knows of the samples of all, and how they are dealt into minibatches together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit_es.core.minibatches import shuffled_minibatches
from rlkit_es.ranks import Ranks
from rlkit_es.types import Batch


class Samples(NamedTuple):
    """Of the batches of all ranks, one after the other."""

    advantage: Tensor  # (S,)
    valid: Tensor  # (S,) bool


def samples_of_all(batch: Batch, ranks: Ranks) -> Samples:
    """What of each rank's ``batch``, all of one size, the others have to know."""
    return Samples(ranks.gather(batch.advantage), ranks.gather(batch.valid))


def shuffled(
    valid: Tensor,
    everyones: Samples | tuple[()],
    minibatch_size: int,
    generator: torch.Generator,
    ranks: Ranks,
) -> tuple[Tensor, Tensor, int]:
    """One epoch of minibatches, to each of which every rank brings samples of its own.

    Args:
        valid: (B,) of this rank's batch.
        everyones: of all ranks; empty where there is one.
        minibatch_size: M, the largest number of samples that a rank brings.
        generator: a CPU generator of this rank's, for the order of its samples.
        ranks: of all.

    Returns:
        index (K, S) int64, each rank's M columns into its own batch, real (K, S) bool, and the number of
        minibatches, as of `shuffled_minibatches`.
    """
    if not everyones:
        return shuffled_minibatches(valid, minibatch_size, generator)
    most = int(everyones.valid.view(ranks.size, -1).sum(1).max())
    index, real, count = shuffled_minibatches(valid, minibatch_size, generator, most)
    both = ranks.gather(torch.stack([index.T, real.T], dim=-1))
    index, real = both.transpose(0, 1).unbind(-1)
    return index.contiguous(), real.bool().contiguous(), count
