"""Small policies and observations."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.types import ActionSpec, ObservationSpec

OBSERVATION_SIZE = 11
PICTURE = ObservationSpec((2, 36, 36))


def box(low: list[float], high: list[float]) -> ActionSpec:
    """Bounds as float32 holds them, as they come from an environment."""
    lows, highs = (tuple(torch.tensor(bound).tolist()) for bound in (low, high))
    return ActionSpec(size=len(low), low=lows, high=highs, shape=(len(low),))


def make_policy(action: ActionSpec, seed: int = 0, **changes: Any) -> ActorCritic:
    settings: dict[str, Any] = {
        "hidden_sizes": (32, 24),
        "critic_hidden_sizes": (20, 28, 12),
        "activation": "tanh",
        "log_std_init": -0.5,
        "observation_clip": 10.0,
        "normalize_observations": True,
        "scale_actions": False,
        "generator": torch.Generator().manual_seed(seed),
    }
    observation = changes.pop("observation", ObservationSpec((OBSERVATION_SIZE,)))
    return ActorCritic(observation, action, **(settings | changes))


Module = TypeVar("Module", bound=nn.Module)


def wander(policy: Module, seed: int = 0, size: float = 0.3) -> Module:
    """Move the parameters away from their initial values, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return policy


def observations(rows: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, OBSERVATION_SIZE, generator=torch.Generator().manual_seed(seed)) + 1


def pictures(rows: int, shape: tuple[int, ...] = PICTURE.shape, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (rows, *shape), dtype=torch.uint8, generator=generator)
