"""One seed to a seed for each source of randomness."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LARGEST_SEED = 2**63 - 1  # that a signed 64-bit integer holds


class Seeds(NamedTuple):
    """Independent seeds, so that changing how much one part draws leaves the others as they are."""

    networks: int
    action_noise: int
    minibatches: int
    envs: int
    evaluation: int
    periodic_evaluation: int  # not the final one's: what chose the best policy may not judge it


def derive_seeds(seed: int, rank: int = 0) -> Seeds:
    """The seeds of a run, a function of ``seed`` alone.

    Those of what each rank draws for itself, action noise and minibatches, are a function of ``rank`` too.
    """
    seeds = _words(np.random.SeedSequence(seed))
    if rank == 0:
        return seeds
    own = _words(np.random.SeedSequence(seed, spawn_key=(rank,)))
    return seeds._replace(action_noise=own.action_noise, minibatches=own.minibatches)


def _words(sequence: np.random.SeedSequence) -> Seeds:
    words = sequence.generate_state(len(Seeds._fields), dtype=np.uint32)
    return Seeds(*(int(word) for word in words))
