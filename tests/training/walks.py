"""Rollouts of `Walk`, whose transitions are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_envs import Walk

from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv
from rlkit_es.envs.vector_env import VectorEnv
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.training.config import Config
from rlkit_es.training.policy import make_policy
from rlkit_es.training.rollout import RolloutCollector
from rlkit_es.types import Rollout, Spaces

CPU = torch.device("cpu")
SEEDS = [0, 1, 2, 3, 6]
GAMMA, GAE_LAMBDA = 0.9, 0.8


class Transition(NamedTuple):
    observation: tuple[float, ...]
    action: float
    reward: float
    next_observation: tuple[float, ...]
    terminated: bool
    truncated: bool


def walks(mode: AutoresetMode, num_envs: int = len(SEEDS), env: Callable = Walk) -> GymnasiumVectorEnv:
    return GymnasiumVectorEnv(SyncVectorEnv([env] * num_envs, autoreset_mode=mode))


def walk_policy(*, noisy: bool = False, scale_actions: bool = True) -> ActorCritic:
    """A policy for `Walk` that depends on the observation, with a normaliser that has seen something."""
    config = Config(algo="ppo", hidden_sizes=(16,), log_std_init=0.0, scale_actions=scale_actions)
    envs = walks(AutoresetMode.NEXT_STEP, 1)
    policy = make_policy(config, Spaces(envs.observation, envs.action), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
        if not noisy:
            policy.actor.log_std.fill_(-60.0)
    policy.normalizer.merge(torch.randn(50, 3, generator=generator) + 0.3, torch.ones(50, dtype=torch.bool))
    return policy


def held(rollout: Rollout) -> dict[str, torch.Tensor]:
    return {name: field for name, field in rollout._asdict().items() if field is not None}


def collector(
    groups: Sequence[VectorEnv], steps: int, seeds: Sequence[int] = SEEDS, **settings: Any
) -> RolloutCollector:
    generator = torch.Generator().manual_seed(2)
    return RolloutCollector(groups, steps, generator=generator, seeds=seeds, device=CPU, **settings)


def transitions(rollout: Rollout, env: int) -> list[Transition]:
    """The valid rows of one environment."""
    found = []
    for t in rollout.valid[:, env].nonzero().flatten().tolist():
        found.append(
            Transition(
                tuple(rollout.observation[t, env].tolist()),
                float(rollout.action[t, env, 0]),
                float(rollout.reward[t, env]),
                tuple(rollout.next_observation[t, env].tolist()),
                bool(rollout.terminated[t, env]),
                bool(rollout.truncated[t, env]),
            )
        )
    return found


def replay(seed: int, actions: Sequence[float]) -> list[Transition]:
    """What one plain `Walk` gives for these actions."""
    env, found = Walk(), []
    observation, _ = env.reset(seed=seed)
    for action in actions:
        clipped = torch.tensor([action]).clamp(-1, 1).numpy()
        following, reward, terminated, truncated, _ = env.step(clipped)
        found.append(
            Transition(
                tuple(observation.tolist()),
                action,
                float(torch.tensor(reward)),
                tuple(following.tolist()),
                terminated,
                truncated,
            )
        )
        observation = env.reset()[0] if terminated or truncated else following
    return found
