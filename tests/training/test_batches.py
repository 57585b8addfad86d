from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from walks import (
    GAE_LAMBDA,
    GAMMA,
    SEEDS,
    Transition,
    collector,
    held,
    replay,
    transitions,
    walk_policy,
    walks,
)

from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.models.normalizers import RewardScaler
from rlkit_es.training.batches import _next_values, _unseen, prepare_batch
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import Rollout


def brute_force_advantages(steps: list[Transition], policy: ActorCritic) -> list[float]:
    """A_t as the sum of the discounted deltas up to the end of t's own episode, in float64."""

    @torch.no_grad()
    def value(observation: tuple[float, ...]) -> float:
        return float(policy.critic(policy.normalize(torch.tensor(observation))))

    deltas = [
        t.reward + GAMMA * (0 if t.terminated else value(t.next_observation)) - value(t.observation)
        for t in steps
    ]
    advantages = []
    for start in range(len(steps)):
        total, weight = 0.0, 1.0
        for t in range(start, len(steps)):
            total += weight * deltas[t]
            if steps[t].terminated or steps[t].truncated:
                break
            weight *= GAMMA * GAE_LAMBDA
        advantages.append(total)
    return advantages


@pytest.mark.parametrize("mode", AutoresetMode)
def test_advantages_bootstrap_from_the_true_final_observation(mode: AutoresetMode) -> None:
    policy = walk_policy(noisy=True)
    rollout = collector([walks(mode)], 40).collect(policy)
    batch, *_ = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    advantage = batch.advantage.view(40, -1)
    for env, seed in enumerate(SEEDS):
        actions = [t.action for t in transitions(rollout, env)]
        expected = brute_force_advantages(replay(seed, actions), policy)
        found = advantage[rollout.valid[:, env], env]
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_one_step_advantage_at_a_truncation_and_at_a_termination(mode: AutoresetMode) -> None:
    policy = walk_policy(noisy=True)
    rollout = collector([walks(mode)], 40).collect(policy)
    batch, *_ = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=0.0)
    value = policy.critic(policy.normalize(rollout.observation))
    final_value = policy.critic(policy.normalize(rollout.next_observation))
    found = (batch.advantage.view(40, -1) + value - rollout.reward) / GAMMA
    torch.testing.assert_close(found[rollout.truncated], final_value[rollout.truncated], rtol=1e-4, atol=1e-4)
    cut = found[rollout.terminated]
    torch.testing.assert_close(cut, torch.zeros_like(cut), rtol=0, atol=1e-5)
    assert (final_value[rollout.truncated].abs() > 1e-2).any()


def test_the_explained_variance_is_that_of_the_critic_as_it_was() -> None:
    policy = walk_policy(noisy=True)
    rollout = collector([walks(AutoresetMode.NEXT_STEP)], 40).collect(policy)
    prepared = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    with torch.no_grad():
        value = policy.critic(policy.normalize(rollout.observation)).flatten()
    target, valid = prepared.batch.value_target, prepared.batch.valid
    expected = 1 - np.var((target - value)[valid].numpy()) / np.var(target[valid].numpy())
    assert prepared.explained_variance == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_next_values_are_the_critics_of_the_next_observations(mode: AutoresetMode) -> None:
    policy = walk_policy(noisy=True)
    rollout = collector([walks(mode)], 40).collect(policy)
    value = policy.critic(policy.normalize(rollout.observation))
    expected = policy.critic(policy.normalize(rollout.next_observation))
    shared = torch.equal(rollout.next_observation[:-1], rollout.observation[1:])
    assert shared == (mode is AutoresetMode.NEXT_STEP)
    next_values = _next_values(policy, value, _unseen(rollout, policy))
    torch.testing.assert_close(next_values, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_collecting_and_preparing_leave_policy_and_rollout_as_they_are(mode: AutoresetMode) -> None:
    policy = walk_policy(noisy=True)
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    rollout = collector([walks(mode)], 20).collect(policy)
    copy = Rollout(**{name: field.clone() for name, field in held(rollout).items()})
    batch, *_ = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    assert all(torch.equal(x, before[name]) for name, x in policy.state_dict().items())
    assert all(torch.equal(x, y) for x, y in zip(held(rollout).values(), held(copy).values(), strict=True))
    assert batch.observation.shape == (100, 3)
    assert torch.equal(batch.valid, rollout.valid.flatten())
    assert (batch.advantage[~batch.valid] == 0).all()


@pytest.mark.parametrize("mode", AutoresetMode)
def test_an_estimator_says_of_another_critic_what_preparing_says_of_it(mode: AutoresetMode) -> None:
    policy = walk_policy(noisy=True)
    rollout = collector([walks(mode)], 20).collect(policy)
    prepared = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    same = prepared.estimator(policy)
    assert torch.equal(same.advantage, prepared.batch.advantage)
    assert torch.equal(same.value_target, prepared.batch.value_target)
    changed = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in changed.critic.parameters():
            parameter.mul_(1.3)
    by_changed = prepare_batch(rollout, changed, None, gamma=GAMMA, gae_lambda=GAE_LAMBDA).batch
    found = prepared.estimator(changed)
    assert torch.equal(found.advantage, by_changed.advantage)
    assert torch.equal(found.value_target, by_changed.value_target)
    assert not torch.allclose(found.advantage, same.advantage, atol=1e-3)


def test_an_estimator_takes_the_rewards_that_were_scaled_once() -> None:
    policy, scaler = walk_policy(noisy=True), RewardScaler(len(SEEDS), GAMMA, 10.0)
    rollout = collector([walks(AutoresetMode.NEXT_STEP)], 20).collect(policy)
    prepared = prepare_batch(rollout, policy, scaler, gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    counted = {name: x.clone() for name, x in scaler.state_dict().items()}
    assert torch.equal(prepared.estimator(policy).advantage, prepared.batch.advantage)
    assert all(torch.equal(x, counted[name]) for name, x in scaler.state_dict().items())


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Humanoid-v4", "CartPole-v1"])
@pytest.mark.parametrize("scale_actions", [True, False])
def test_the_ratio_is_one_on_the_first_minibatch(env_id: str, scale_actions: bool) -> None:
    config = Config.for_algorithm(
        "ppo", env=env_id, num_envs=4, rollout_steps=64, scale_actions=scale_actions, compile="off", epochs=2
    )
    trainer = Trainer(config)
    trainer.train(config.batch_size)
    policy = trainer.policy
    rollout = trainer.begin_segment().collect(policy)
    batch, *_ = prepare_batch(rollout, policy, trainer.reward_scaler, gamma=0.99, gae_lambda=0.95)
    some = torch.randperm(config.batch_size, generator=torch.Generator().manual_seed(0))[:37]
    new = policy.actor(batch.observation[some])
    stats = policy_stats(policy.distribution, new, batch.behaviour[some], batch.action[some])
    assert (stats.ratio - 1).abs().max() <= 1e-6
    assert stats.kl.abs().max() <= 1e-6
    acted = policy.actor(policy.normalize(rollout.observation.flatten(0, 1)))
    stats = policy_stats(policy.distribution, acted, batch.behaviour, batch.action)
    assert (stats.ratio - 1).abs().max() <= 1e-6
    trainer.close()
