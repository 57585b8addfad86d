from __future__ import annotations

import gymnasium as gym
import pytest
import torch
import toy_envs  # registers its ids

from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv
from rlkit_es.training.config import Config
from rlkit_es.training.episodes import EpisodeTracker
from rlkit_es.training.policy import make_policy
from rlkit_es.training.rollout import RolloutCollector
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import Rollout, Spaces


def plain_episodes(seed: int, actions: list[float]) -> list[tuple[float, int]]:
    env, found, total, length = toy_envs.Walk(), [], 0.0, 0
    env.reset(seed=seed)
    for action in actions:
        _, reward, terminated, truncated, _ = env.step(torch.tensor([action]).clamp(-1, 1).numpy())
        total, length = total + reward, length + 1
        if terminated or truncated:
            found.append((total, length))
            env.reset()
            total, length = 0.0, 0
    return found


@pytest.mark.parametrize("mode", gym.vector.AutoresetMode)
def test_returns_are_raw_sums_across_rollouts(mode: gym.vector.AutoresetMode) -> None:
    seeds = [0, 1, 2]
    envs = GymnasiumVectorEnv(gym.vector.SyncVectorEnv([toy_envs.Walk] * 3, autoreset_mode=mode))
    policy = make_policy(Config(algo="ppo"), Spaces(envs.observation, envs.action), seed=0)
    generator = torch.Generator().manual_seed(0)
    collector = RolloutCollector([envs], 4, generator=generator, seeds=seeds, device=torch.device("cpu"))
    tracker, finished, actions = EpisodeTracker(3), [], {env: [] for env in range(3)}
    for _ in range(9):
        rollout = collector.collect(policy)
        finished += tracker.track(rollout)
        for env in range(3):
            actions[env] += rollout.action[rollout.valid[:, env], env, 0].tolist()
    for env, seed in enumerate(seeds):
        expected = plain_episodes(seed, actions[env])
        found = [episode for episode in finished if episode.env == env]
        assert len(expected) >= 5
        assert [episode.length for episode in found] == [length for _, length in expected]
        assert [e.episode_return for e in found] == pytest.approx([total for total, _ in expected], rel=1e-5)
    last = list(tracker.recent)
    assert last == finished
    assert tracker.means()["episode_return_mean"] == pytest.approx(
        sum(e.episode_return for e in last) / len(last)
    )
    assert tracker.means()["episode_length_mean"] == pytest.approx(sum(e.length for e in last) / len(last))


def test_dummy_rows_are_not_counted_whatever_they_hold() -> None:
    flags = torch.tensor([[False], [True], [True], [False], [True]])
    valid = torch.tensor([[True], [True], [False], [True], [True]])
    empty = torch.zeros(5, 1, 1)
    rollout = Rollout(
        observation=empty,
        next_observation=empty,
        action=empty,
        reward=torch.tensor([[1.0], [2.0], [1000.0], [3.0], [4.0]]),
        terminated=flags,
        truncated=torch.zeros(5, 1, dtype=torch.bool),
        valid=valid,
        life_lost=torch.zeros(5, 1, dtype=torch.bool),
    )
    assert [(e.episode_return, e.length) for e in EpisodeTracker(1).track(rollout)] == [(3, 2), (7, 2)]


def test_means_are_over_the_last_episodes_only_and_nan_before_the_first() -> None:
    tracker = EpisodeTracker(1, window=2)
    assert all(x != x for x in tracker.means().values())
    ended = torch.ones(4, 1, dtype=torch.bool)
    empty = torch.zeros(4, 1, 1)
    reward = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    tracker.track(Rollout(empty, empty, empty, reward, ended, ~ended, ended, ~ended))
    assert tracker.means() == {"episode_return_mean": 3.5, "episode_length_mean": 1.0}


@pytest.mark.parametrize("normalize_rewards", [True, False])
@pytest.mark.parametrize("scale_actions", [True, False])
def test_normalising_and_scaling_do_not_touch_reported_returns(
    normalize_rewards: bool, scale_actions: bool
) -> None:
    settings = {"normalize_rewards": normalize_rewards, "scale_actions": scale_actions}
    settings |= {"reward_clip": 0.5} if normalize_rewards else {}
    config = Config.for_algorithm(
        "ppo", env="ToyPayday-v0", num_envs=4, rollout_steps=16, compile="off", epochs=2, **settings
    )
    trainer = Trainer(config)
    trainer.train(200)
    assert len(trainer.episodes.recent) >= 30
    assert {(e.episode_return, e.length) for e in trainer.episodes.recent} == {(1500.0, 5)}
    assert trainer.metrics["episode_return_mean"] == 1500
    assert trainer.metrics["episode_length_mean"] == 5
