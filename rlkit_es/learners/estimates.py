"""What a critic says of a batch, which an update may ask for anew while the critic changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from rlkit_es.models.actor_critic import ActorCritic


class Estimates(NamedTuple):
    """By one critic, of one batch."""

    advantage: Tensor  # (B,)
    value_target: Tensor  # (B,)


Estimator = Callable[[ActorCritic], Estimates]
