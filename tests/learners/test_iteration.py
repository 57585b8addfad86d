"""Iterations of the trainer against the same ones written out: normalisers, advantages, update."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401  # registers its ids
from plain_update import PlainUpdate
from torch.nn.utils import parameters_to_vector

from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.training.config import Config
from rlkit_es.training.policy import make_policy
from rlkit_es.training.rollout import RolloutCollector
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import Batch, Rollout

GAMMA, GROWTH, GAE_LAMBDA, REWARD_CLIP, OBSERVATION_CLIP, RATE, STEPS = 0.9, 5.0, 0.5, 0.3, 1.2, 3e-3, 160
CONFIG = Config.for_algorithm(
    "ppo",
    env="ToyWalk-v0",
    backend="gymnasium",
    num_envs=4,
    rollout_steps=16,
    minibatch_size=16,
    epochs=2,
    critic_epochs=3,
    gamma=GAMMA,
    horizon_growth=GROWTH,
    gae_lambda=GAE_LAMBDA,
    reward_clip=REWARD_CLIP,
    observation_clip=OBSERVATION_CLIP,
    learning_rate=RATE,
    critic_learning_rate=2e-3,
    recompute_advantages=False,
    total_steps=STEPS,
    compile="off",
    seed=3,
)


class Seen(NamedTuple):
    """Everything that was counted so far, to take mean and variance of."""

    observations: list[np.ndarray]
    returns: list[float]


def scaled_rewards(rollout: Rollout, running: np.ndarray, seen: Seen) -> np.ndarray:
    """(T, N); ``running`` are the discounted returns of the episodes under way, which go on."""
    reward, done = rollout.reward.double().numpy(), rollout.done.numpy()
    for t, env in np.argwhere(rollout.valid.numpy()):
        running[env] = GAMMA * running[env] + reward[t, env]
        seen.returns.append(running[env])
        if done[t, env]:
            running[env] = 0.0
    return np.clip(reward / np.sqrt(np.var(seen.returns) + 1e-8), -REWARD_CLIP, REWARD_CLIP)


def advantages(
    rollout: Rollout, reward: np.ndarray, value: np.ndarray, next_value: np.ndarray, gamma: float
) -> np.ndarray:
    """(T, N), from the last step to the first."""
    result, following = np.zeros_like(value), np.zeros(value.shape[1])
    for t in reversed(range(len(value))):
        going = 1.0 - rollout.done[t].numpy()
        bootstrap = 1.0 - rollout.terminated[t].numpy()
        delta = reward[t] + gamma * bootstrap * next_value[t] - value[t]
        own = delta + gamma * GAE_LAMBDA * going * following
        valid = rollout.valid[t].numpy()
        result[t] = np.where(valid, own, 0.0)
        following = np.where(valid, own, following)
    return result


def batch_of(rollout: Rollout, twin: ActorCritic, running: np.ndarray, seen: Seen, gamma: float) -> Batch:
    """As `Trainer` should prepare it; what was observed counts only for the next one."""
    counted = np.concatenate(seen.observations) if seen.observations else None

    def normal(observation: torch.Tensor) -> torch.Tensor:
        x = observation.double().numpy()
        if counted is not None:
            x = (x - counted.mean(0)) / np.sqrt(counted.var(0) + 1e-8)
        return torch.from_numpy(np.clip(x, -OBSERVATION_CLIP, OBSERVATION_CLIP)).float()

    observation, following = normal(rollout.observation), normal(rollout.next_observation)
    with torch.no_grad():
        value, next_value = (twin.critic(x).double().numpy() for x in (observation, following))
        behaviour = twin.actor(observation.flatten(0, 1))
    advantage = advantages(rollout, scaled_rewards(rollout, running, seen), value, next_value, gamma)
    seen.observations.append(rollout.observation[rollout.valid].double().numpy())
    return Batch(
        observation=observation.flatten(0, 1),
        action=rollout.action.flatten(0, 1),
        behaviour=behaviour,
        advantage=torch.from_numpy(advantage).float().flatten(),
        value_target=torch.from_numpy(advantage + value).float().flatten(),
        valid=rollout.valid.flatten(),
    )


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    found: list[Rollout] = []
    collect = RolloutCollector.collect

    def collected(collector: RolloutCollector, policy: ActorCritic) -> Rollout:
        found.append(collect(collector, policy))
        return found[-1]

    monkeypatch.setattr(RolloutCollector, "collect", collected)
    return found


def test_iterations_are_what_is_written_out(rollouts: list[Rollout]) -> None:
    trainer = Trainer(CONFIG)
    twin = make_policy(CONFIG, trainer.spaces, trainer.seeds.networks)
    plain = PlainUpdate("ppo", twin, CONFIG, seed=trainer.seeds.minibatches)
    running, seen, done = np.zeros(CONFIG.num_envs), Seen([], []), 0
    trainer.train(STEPS)
    assert len(rollouts) == 4
    for rollout in rollouts:
        remaining = 1 - done / STEPS
        gamma = 1 - (1 - GAMMA) / (remaining + (1 - remaining) * GROWTH)
        plain.update(batch_of(rollout, twin, running, seen, gamma), RATE * remaining, remaining)
        done += int(rollout.valid.sum())
    for part in ("actor", "critic"):
        ours, theirs = (
            parameters_to_vector(getattr(policy, part).parameters()).detach()
            for policy in (trainer.policy, twin)
        )
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()
    counted = np.concatenate(seen.observations)
    normalizer = trainer.policy.normalizer
    assert normalizer is not None
    np.testing.assert_allclose(normalizer.mean, counted.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(normalizer.variance, counted.var(0), rtol=1e-4)
    assert trainer.reward_scaler is not None
    np.testing.assert_allclose(trainer.reward_scaler.variance, np.var(seen.returns), rtol=1e-4)
    trainer.close()
