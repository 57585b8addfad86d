"""The policy that a configuration describes."""

from __future__ import annotations

import torch

from rlkit_es.errors import UserError
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.building import width_of
from rlkit_es.training.config import Config
from rlkit_es.training.threads import threads
from rlkit_es.types import Spaces


def make_policy(config: Config, spaces: Spaces, seed: int) -> ActorCritic:
    """The untrained policy that ``config`` describes, on the CPU.

    Raises:
        UserError: a network or encoder of the user's own does not fit, or a picture is too small.
    """
    # Networks of the user's own may draw from torch's global generator; and several threads round otherwise
    # than one in orthogonal initialisation, so that the same seed would begin otherwise on another machine.
    with torch.random.fork_rng(devices=[]), threads(1):
        torch.manual_seed(seed)
        policy = _make(config, spaces, seed)
        _check(policy, spaces, config.network)
    return policy


def _make(config: Config, spaces: Spaces, seed: int) -> ActorCritic:
    return ActorCritic(
        spaces.observation,
        spaces.action,
        network=config.network,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        log_std_init=config.log_std_init,
        observation_clip=config.observation_clip,
        normalize_observations=config.normalize_observations,
        scale_actions=config.scale_actions,
        encoder=config.encoder,
        share_encoder=config.shares_encoder,
        precision=config.precision,
        generator=torch.Generator().manual_seed(seed),
    )


def _check(policy: ActorCritic, spaces: Spaces, network: str) -> None:
    observation = torch.zeros(2, *spaces.observation.shape, dtype=spaces.observation.dtype)
    with torch.no_grad():
        critic_input = policy.critic_input(observation)
    for part, given, outputs in (
        (policy.actor, observation, spaces.action.size),
        (policy.critic, critic_input, 1),
    ):
        width_of(f"network {network}", part.network, given, outputs)
        if not any(True for _ in part.parameters()):
            raise UserError(f"network {network} has no parameters, and so nothing to learn: give it some")
