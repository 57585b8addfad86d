"""One seed to a seed for each source of randomness."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Seeds(NamedTuple):
    """Independent seeds, so that changing how much one part draws leaves the others as they are."""

    networks: int
    action_noise: int
    minibatches: int
    envs: int
    evaluation: int
    periodic_evaluation: int  # not the final one's: what chose the best policy may not judge it


def derive_seeds(seed: int) -> Seeds:
    """The seeds of a run, a function of ``seed`` alone."""
    words = np.random.SeedSequence(seed).generate_state(len(Seeds._fields), dtype=np.uint32)
    return Seeds(*(int(word) for word in words))
