"""Small policies and observations."""

from typing import Any

import torch
from torch import Tensor

from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.types import ActionSpec

OBSERVATION_SIZE = 11


def box(low: list[float], high: list[float]) -> ActionSpec:
    """Bounds as float32 holds them, as they come from an environment."""
    lows, highs = (tuple(torch.tensor(bound).tolist()) for bound in (low, high))
    return ActionSpec(size=len(low), low=lows, high=highs, shape=(len(low),))


def make_policy(action: ActionSpec, seed: int = 0, **changes: Any) -> ActorCritic:
    settings: dict[str, Any] = {
        "hidden_sizes": (32, 24),
        "activation": "tanh",
        "log_std_init": -0.5,
        "observation_clip": 10.0,
        "normalize_observations": True,
        "scale_actions": False,
        "generator": torch.Generator().manual_seed(seed),
    }
    return ActorCritic(OBSERVATION_SIZE, action, **(settings | changes))


def wander(policy: ActorCritic, seed: int = 0, size: float = 0.3) -> ActorCritic:
    """Move the parameters away from their initial values, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return policy


def observations(rows: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, OBSERVATION_SIZE, generator=torch.Generator().manual_seed(seed)) + 1
