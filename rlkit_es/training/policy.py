"""The policy that a configuration describes."""

from __future__ import annotations

import torch

from rlkit_es.errors import UserError
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.building import check_rows, width_of
from rlkit_es.models.networks import Encoded
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
        _check(policy, spaces, config)
    return policy


def _make(config: Config, spaces: Spaces, seed: int) -> ActorCritic:
    return ActorCritic(
        spaces.observation,
        spaces.action,
        network=config.network,
        hidden_sizes=config.hidden_sizes,
        critic_hidden_sizes=config.sizes_of_critic,
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


@torch.no_grad()
def _check(policy: ActorCritic, spaces: Spaces, config: Config) -> None:
    observation = torch.zeros(2, *spaces.observation.shape, dtype=spaces.observation.dtype)
    what, given = f"network {config.network}", observation
    for part, outputs in ((policy.actor, spaces.action.size), (policy.critic, 1)):
        network = part.network
        if isinstance(network, Encoded):
            check_rows(f"encoder {config.encoder}", network.encoder.network, observation)
            given, network = network.encoder(observation), network.network  # features
        width_of(what, network, given, outputs)
        check_rows(what, network, given)
        if not any(True for _ in part.parameters()):
            raise UserError(f"{what} has no parameters, and so nothing to learn: give it some")
