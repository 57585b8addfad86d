"""The contract of `VectorEnv`, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401  # registers its ids
from torch import Tensor

from rlkit_es.envs.registry import make_vector_envs
from rlkit_es.envs.vector_env import Step, VectorEnv, env_seeds

BACKENDS = ("envpool", "gymnasium")
Make = Callable[..., VectorEnv]


@pytest.fixture
def make() -> Iterator[Make]:
    opened: list[VectorEnv] = []

    def make(env_id: str, num_envs: int, backend: str) -> VectorEnv:
        if backend == "envpool":
            pytest.importorskip("envpool")
        (envs,) = make_vector_envs(env_id, num_envs, backend=backend, threads=1)
        opened.append(envs)
        return envs

    yield make
    for envs in opened:
        envs.close()


def random_action(envs: VectorEnv, generator: torch.Generator) -> Tensor:
    n, action = envs.num_envs, envs.action
    if action.discrete:
        return action.start + torch.randint(action.size, (n,), generator=generator)
    low, high = torch.tensor(action.low), torch.tensor(action.high)
    return (low + (high - low) * torch.rand(n, action.size, generator=generator)).view(n, *action.shape)


def play(envs: VectorEnv, seeds: list[int], steps: int) -> tuple[Tensor, list[Tensor], list[Step]]:
    generator = torch.Generator().manual_seed(0)
    first, actions, seen = envs.reset(seeds), [], []
    for _ in range(steps):
        actions.append(random_action(envs, generator))
        envs.send(actions[-1])
        seen.append(envs.recv())
    return first, actions, seen


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Hopper-v4"])
def test_shapes_dtypes_and_the_row_after_an_end(make: Make, backend: str, env_id: str) -> None:
    envs = make(env_id, 3, backend)
    first, _, steps = play(envs, [1, 2, 3], 210)
    assert first.shape == (3, envs.observation.size)
    assert first.dtype == torch.float32
    ended = torch.zeros(3, dtype=torch.bool)
    for step in steps:
        assert step.observation.shape == first.shape
        assert step.observation.dtype == step.reward.dtype == torch.float32
        for flag in (step.terminated, step.truncated, step.valid):
            assert flag.shape == (3,)
            assert flag.dtype == torch.bool
        assert step.reward.shape == (3,)
        assert step.final_observation is None
        assert torch.equal(step.valid, ~ended)
        assert not (step.terminated & step.truncated).any()
        ended = step.terminated | step.truncated
        assert not (ended & ~step.valid).any()
    assert sum(int((~step.valid).sum()) for step in steps) >= 3


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "ToyShortCartPole-v0", "ToyWalk-v0"])
def test_gymnasium_gives_what_plain_environments_give(make: Make, env_id: str) -> None:
    seeds = [11, 12]
    first, actions, steps = play(make(env_id, 2, "gymnasium"), seeds, 230)
    ends = 0
    for i, seed in enumerate(seeds):
        plain = gym.make(env_id)
        assert np.array_equal(first[i], plain.reset(seed=seed)[0])
        over = False
        for action, step in zip(actions, steps, strict=True):
            if over:
                assert not step.valid[i]
                expected, reward, flags, over = plain.reset()[0], 0.0, (False, False), False
            else:
                assert step.valid[i]
                expected, reward, *flags, _ = plain.step(action[i].numpy())
                over = any(flags)
                ends += over
            assert np.array_equal(step.observation[i], np.float32(expected))
            assert step.reward[i] == np.float32(reward)
            assert (bool(step.terminated[i]), bool(step.truncated[i])) == tuple(flags)
    assert ends >= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_final_observation_of_cartpole_is_where_it_fell(make: Make, backend: str) -> None:
    _, _, steps = play(make("CartPole-v1", 4, backend), [1, 2, 3, 4], 200)
    falls = 0
    for step, after in pairwise(steps):
        for i in step.terminated.nonzero().flatten():
            x, _, angle, _ = step.observation[i].abs()
            assert x > 2.4 or angle > 12 * 2 * np.pi / 360
            assert step.reward[i] == 1
            assert (after.observation[i].abs() <= 0.05).all()
            falls += 1
    assert falls >= 12


def test_envpool_truncates_half_cheetah_at_1000_with_its_true_final_observation(make: Make) -> None:
    _, actions, steps = play(make("HalfCheetah-v4", 4, "envpool"), [1, 2, 3, 4], 1001)
    for step in steps[:999]:
        assert step.valid.all()
        assert not (step.terminated | step.truncated).any()
    assert steps[999].truncated.all()
    assert not steps[999].terminated.any()
    assert not steps[1000].valid.any()
    # Gymnasium's simulator, put where EnvPool's was before its last step, ends in the same place.
    simulator = gym.make("HalfCheetah-v4").unwrapped
    for i in range(4):
        simulator.reset(seed=0)
        before = steps[998].observation[i].double().numpy()
        simulator.set_state(np.r_[0.0, before[:8]], before[8:])
        after = simulator.step(actions[999][i].numpy())[0]
        np.testing.assert_allclose(steps[999].observation[i], after, atol=0.05, rtol=0.05)
        assert np.abs(steps[1000].observation[i].numpy() - after).max() > 0.5


@pytest.mark.parametrize(
    ("env_id", "limit", "backend"),
    [
        ("Pendulum-v1", 200, "envpool"),
        ("Pendulum-v1", 200, "gymnasium"),
        ("ToyShortCartPole-v0", 8, "gymnasium"),
        ("CartpoleBalance-v1", 1000, "envpool"),
    ],
)
def test_the_time_limit_truncates_only(make: Make, env_id: str, limit: int, backend: str) -> None:
    _, _, steps = play(make(env_id, 2, backend), [5, 6], limit + 1)
    assert [t for t, step in enumerate(steps) if step.truncated.any()] == [limit - 1]
    assert steps[limit - 1].truncated.all()
    assert not any(step.terminated.any() for step in steps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v4"])
def test_seeds_decide_the_observations(make: Make, backend: str, env_id: str) -> None:
    def observations(envs: VectorEnv, seeds: list[int]) -> Tensor:
        first, _, steps = play(envs, seeds, 60)
        return torch.stack([first, *(step.observation for step in steps)])

    envs = make(env_id, 3, backend)
    seen = observations(envs, [1, 2, 3])
    assert torch.equal(observations(envs, [1, 2, 3]), seen)
    assert torch.equal(observations(make(env_id, 3, backend), [1, 2, 3]), seen)
    other = observations(envs, [1, 2, 4])
    assert torch.equal(other[:, :2], seen[:, :2])
    assert not torch.equal(other[0, 2], seen[0, 2])
    assert len(seen[0].unique(dim=0)) == 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v4"])
def test_no_later_step_overwrites_what_was_returned(make: Make, backend: str, env_id: str) -> None:
    envs = make(env_id, 2, backend)
    first, generator = envs.reset([1, 2]), torch.Generator().manual_seed(0)
    kept, copies = [first], [first.clone()]
    for _ in range(50):
        envs.send(random_action(envs, generator))
        step = [x for x in envs.recv() if x is not None]
        kept += step
        copies += [x.clone() for x in step]
    envs.close()
    assert all(torch.equal(x, copy) for x, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize("num_envs", [1, 2, 64, 4096])
def test_env_seeds_are_distinct_deterministic_and_in_range(num_envs: int) -> None:
    seeds = env_seeds(7, num_envs)
    assert len(set(seeds)) == len(seeds) == num_envs
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)
    assert env_seeds(7, num_envs) == seeds
    assert not set(env_seeds(8, num_envs)) & set(seeds[:64])
