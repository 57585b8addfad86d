from __future__ import annotations

import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlkit_es.envs.envpool_backend import EnvPoolVectorEnv, envpool_ids
from rlkit_es.envs.gymnasium_backend import make_gymnasium

envpool = pytest.importorskip("envpool")

SEEDS = [3, 1, 4]


def flat(observation: object) -> np.ndarray:
    if isinstance(observation, dict):
        return np.concatenate([flat(observation[key]) for key in sorted(observation)], axis=1)
    return np.asarray(observation).reshape(len(SEEDS), -1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "env_id",
    [
        "CartPole-v1",
        "Acrobot-v1",
        "Pendulum-v1",
        "Hopper-v4",
        "Humanoid-v4",
        "CheetahRun-v1",
        "FetchReach-v4",
    ],
)
def test_fast_path_gives_what_the_public_step_gives(env_id: str, threads: int) -> None:
    fast = EnvPoolVectorEnv(env_id, 3, threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        public = envpool.make(env_id, env_type="gymnasium", num_envs=3, num_threads=1, env_seed=SEEDS)
        space = public.action_space
    first = np.float32(flat(public.reset()[0]))
    assert np.array_equal(fast.reset(SEEDS), first)
    assert first.shape == (3, fast.observation.size)
    space.seed(0)
    ends = 0
    over = np.zeros(3, dtype=bool)
    for _ in range(220):
        action = np.stack([space.sample() for _ in SEEDS])
        fast.send(torch.from_numpy(action if fast.action.discrete else np.float32(action)))
        step = fast.recv()
        observation, reward, terminated, truncated, _ = public.step(np.float32(action))
        assert np.array_equal(step.observation, np.float32(flat(observation)))
        assert np.array_equal(step.reward, np.float32(reward))
        assert np.array_equal(step.terminated, terminated)
        assert np.array_equal(step.truncated, truncated)
        assert np.array_equal(step.valid, ~over)
        over = terminated | truncated
        ends += int(over.sum())
    assert ends >= 2 or env_id in ("Acrobot-v1", "CheetahRun-v1")
    fast.close()
    public.close()


@pytest.mark.parametrize(
    "name",
    [
        "HalfCheetah",
        "Hopper",
        "Walker2d",
        "Ant",
        "Humanoid",
        "Swimmer",
        "Reacher",
        "InvertedPendulum",
        "InvertedDoublePendulum",
    ],
)
def test_envpool_and_gymnasium_agree_on_the_spaces_of_mujoco(name: str) -> None:
    pool = EnvPoolVectorEnv(f"{name}-v4", 1)
    plain = make_gymnasium(f"{name}-v4", 1, asynchronous=False)
    assert pool.observation.size == plain.observation.size == plain.reset([0]).shape[1]
    assert pool.reset([0]).shape == (1, pool.observation.size)
    assert pool.action.fits(plain.action)
    assert pool.action.bounded
    pool.close()
    plain.close()


def test_discrete_actions_agree_with_gymnasium() -> None:
    with gym.make("CartPole-v1") as plain:
        assert EnvPoolVectorEnv("CartPole-v1", 1).action.size == plain.action_space.n


def test_ids_can_be_made_with_more_threads_than_environments() -> None:
    pool = EnvPoolVectorEnv("CartPole-v1", 2, threads=8)
    assert pool.reset([1, 2]).shape == (2, 4)
    pool.close()
    pool.close()
    assert pool.reset([1, 2]).shape == (2, 4)
    pool.close()


def test_no_ids_where_envpool_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "HalfCheetah-v4" in envpool_ids()
    monkeypatch.setitem(sys.modules, "envpool", None)
    assert envpool_ids() == []
