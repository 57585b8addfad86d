from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from toy_envs import ReusedBuffers, Spaces, Walk

from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv, make_gymnasium
from rlkit_es.envs.vector_env import Step
from rlkit_es.errors import DivergedError, UserError


class DictWalk(gym.Wrapper):
    """A Walk whose three numbers are two leaves, one of them nested and of two dimensions."""

    def __init__(self) -> None:
        super().__init__(Walk())
        leaf = Box(-np.inf, np.inf, (1, 2), np.float32)
        self.observation_space = Dict(
            {"z": Box(-np.inf, np.inf, (1,), np.float32), "a": Dict({"leaf": leaf})}
        )

    def reset(self, **options: object) -> tuple[dict, dict]:
        observation, info = super().reset(**options)
        return self._split(observation), info

    def step(self, action: np.ndarray) -> tuple:
        observation, *rest = super().step(action)
        return self._split(observation), *rest

    def _split(self, observation: np.ndarray) -> dict:
        return {"z": observation[2:], "a": {"leaf": observation[:2].reshape(1, 2)}}


def play(envs: GymnasiumVectorEnv, steps: int) -> tuple[torch.Tensor, list[Step]]:
    first, seen = envs.reset(range(envs.num_envs)), []
    for t in range(steps):
        envs.send(torch.full((envs.num_envs, 1), (t % 5) / 5))
        seen.append(envs.recv())
    envs.close()
    return first, seen


@pytest.mark.parametrize("mode", AutoresetMode)
def test_dict_observations_are_flattened_in_key_order(mode: AutoresetMode) -> None:
    def of(env: type) -> tuple[torch.Tensor, list[Step]]:
        return play(GymnasiumVectorEnv(SyncVectorEnv([env] * 2, autoreset_mode=mode)), 20)

    (first, steps), (dict_first, dict_steps) = of(Walk), of(DictWalk)
    assert torch.equal(first, dict_first)
    for step, dict_step in zip(steps, dict_steps, strict=True):
        for name, x in step._asdict().items():
            y = getattr(dict_step, name)
            assert (x is None and y is None) or torch.equal(x, y), name


@pytest.mark.parametrize("mode", [None, "NextStep", "whatever"])
def test_an_unnamed_autoreset_mode_is_refused(mode: object) -> None:
    envs = SyncVectorEnv([Walk])
    envs.metadata = {} if mode is None else {"autoreset_mode": mode}
    with pytest.raises(UserError, match="autoreset_mode") as refused:
        GymnasiumVectorEnv(envs)
    assert all(name in str(refused.value) for name in ("NEXT_STEP", "SAME_STEP", "DISABLED"))


@pytest.mark.parametrize("mode", AutoresetMode)
def test_environments_that_reuse_their_buffers(mode: AutoresetMode) -> None:
    _, steps = play(GymnasiumVectorEnv(ReusedBuffers(mode)), 6)
    column = [
        (float(s.reward[0]), bool(s.terminated[0]), float(s.observation[0, 0])) for s in steps if s.valid[0]
    ]
    at_end = 2.0 if mode is AutoresetMode.NEXT_STEP else 0.0
    assert column[:4] == [(10, False, 1), (20, True, at_end), (10, False, 1), (20, True, at_end)]


@pytest.mark.parametrize("mode", AutoresetMode)
def test_processes_give_what_one_process_gives(mode: AutoresetMode) -> None:
    makers = [Walk, Walk]
    one = play(GymnasiumVectorEnv(SyncVectorEnv(makers, autoreset_mode=mode)), 20)
    two = play(GymnasiumVectorEnv(AsyncVectorEnv(makers, autoreset_mode=mode)), 20)
    assert torch.equal(one[0], two[0])
    for a, b in zip(one[1], two[1], strict=True):
        assert all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "toy_envs:ToyWalk-v0"])
def test_the_asynchronous_backend_equals_the_synchronous_one(env_id: str) -> None:
    sync, spawned = (make_gymnasium(env_id, 2, asynchronous=flag) for flag in (False, True))
    assert torch.equal(sync.reset([1, 2]), spawned.reset([1, 2]))
    for t in range(60):
        action = torch.tensor([t % 2, 1]) if sync.action.discrete else torch.tensor([[t % 2], [0.5]])
        for envs in (sync, spawned):
            envs.send(action)
        for x, y in zip(sync.recv(), spawned.recv(), strict=True):
            assert (x is None and y is None) or torch.equal(x, y)
    sync.close()
    spawned.close()


def test_what_only_this_process_has_registered_is_made_in_others() -> None:
    gym.register("ToyOnlyHere-v0", entry_point=Walk, max_episode_steps=7)
    envs = make_gymnasium("ToyOnlyHere-v0", 2, asynchronous=True)
    ended = torch.zeros(2, dtype=torch.bool)
    envs.reset([1, 2])
    for _ in range(7):
        envs.send(torch.zeros(2, 1))
        step = envs.recv()
        ended |= step.terminated | step.truncated
    assert ended.all()
    envs.close()


def test_a_vector_of_its_own_kind_takes_the_first_seed() -> None:
    def cart_poles() -> GymnasiumVectorEnv:
        return GymnasiumVectorEnv(gym.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point"))

    envs, others = cart_poles(), cart_poles()
    first = envs.reset([1, 2, 3])
    assert torch.equal(first, others.reset([1, 5, 6]))
    assert not torch.equal(first, others.reset([2, 2, 3]))
    for _ in range(30):
        envs.send(torch.ones(3, dtype=torch.int64))
        step = envs.recv()
    assert step.observation.isfinite().all()


def test_wrapped_environments_take_a_seed_each() -> None:
    def vector() -> SyncVectorEnv:
        return SyncVectorEnv([Walk] * 3)

    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(vector())
    seeds = [5, 1, 3]
    assert torch.equal(GymnasiumVectorEnv(wrapped).reset(seeds), GymnasiumVectorEnv(vector()).reset(seeds))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bounds", [(-1, 1), (-0.1, 0.1), (-0.4, 0.4), (-2, 2), (0.3, 0.7)])
def test_actions_on_the_bounds_are_inside_the_space(bounds: tuple[float, float], dtype: type) -> None:
    env = Spaces(Box(-1, 1, (2,), np.float32), Box(*bounds, (2, 1), dtype))
    envs = GymnasiumVectorEnv(SyncVectorEnv([lambda: env]))
    envs.reset([0])
    for bound in (envs.action.low, envs.action.high):
        envs.send(torch.tensor(bound).view(1, *envs.action.shape))
        envs.recv()


def test_discrete_actions_keep_their_start() -> None:
    env = Spaces(Box(-1, 1, (2,), np.float32), Discrete(3, start=-1))
    envs = GymnasiumVectorEnv(SyncVectorEnv([lambda: env]))
    assert (envs.action.size, envs.action.start) == (3, -1)
    envs.reset([0])
    for action in (-1, 0, 1):
        envs.send(torch.tensor([action]))
        assert envs.recv().valid.all()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_action_that_is_not_finite_is_not_the_environments_fault(asynchronous: bool) -> None:
    envs = make_gymnasium("toy_envs:ToyWalk-v0", 2, asynchronous=asynchronous)
    envs.reset([0, 1])
    envs.send(torch.tensor([[0.5], [torch.nan]]))
    with pytest.raises(DivergedError, match="the policy's action is not finite"):
        envs.recv()
    envs.close()


def handler_of_ctrl_c(asynchronous: bool) -> str:
    """What Ctrl-C does in this process once environments have been made in it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    envs = make_gymnasium("CartPole-v1", 1, asynchronous=asynchronous)
    try:
        return "ignored" if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else "as before"
    finally:
        envs.close()


def test_a_worker_that_makes_environments_keeps_its_ctrl_c() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert [pool.submit(handler_of_ctrl_c, way).result() for way in (False, True)] == ["as before"] * 2
