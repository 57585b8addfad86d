"""Environments that step themselves all at once: Gymnasium's vector_entry_point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_envs import TensorWalks, Walk

import rlkit_es
from rlkit_es.algorithms import PPO, TRPO
from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv, make_gymnasium_vector
from rlkit_es.envs.registry import choose_backend, make_vector_envs
from rlkit_es.envs.returned import WrongReturnError, of_vector_reset
from rlkit_es.envs.vector_env import Step
from rlkit_es.errors import UserError

pytestmark = pytest.mark.usefixtures("nothing_stays_registered")

SMALL: dict[str, Any] = {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 32, "epochs": 2, "seed": 3}


def register(name: str = "ToyVector-v0", **settings: Any) -> str:
    """A `TensorWalks` with these settings, by an id."""
    gym.registry.pop(name, None)
    gym.register(name, vector_entry_point=TensorWalks, kwargs=settings)
    return name


def played(envs: GymnasiumVectorEnv, steps: int = 20) -> tuple[torch.Tensor, list[Step]]:
    first, seen = envs.reset([5, 6]), []
    for t in range(steps):
        envs.send(torch.full((2, 1), (t % 5) / 5))
        seen.append(envs.recv())
    envs.close()
    return first, seen


@pytest.mark.parametrize("mode", AutoresetMode)
def test_tensors_are_what_arrays_would_be(mode: AutoresetMode) -> None:
    of_arrays = played(GymnasiumVectorEnv(SyncVectorEnv([Walk, Walk], autoreset_mode=mode)))
    of_tensors = played(make_gymnasium_vector(register(mode=mode), 2))
    assert torch.equal(of_arrays[0], of_tensors[0])
    for arrays, tensors in zip(of_arrays[1], of_tensors[1], strict=True):
        for name, x in arrays._asdict().items():
            y = getattr(tensors, name)
            assert (x is None and y is None) or torch.equal(x, y), name
            assert x is None or x.dtype == y.dtype, name


class Arrays(gym.vector.VectorEnv):
    """One number, four actions, and leaves of every kind, as arrays; an episode has one step."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    single_observation_space = Dict({"gait": Discrete(3), "arm": Tuple([Box(-1, 1, (2,)), Discrete(2)])})
    single_action_space = Discrete(4)

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict]:
        return self.observation(0), {}

    def step(self, action: np.ndarray) -> tuple:
        assert action.dtype == np.int64
        zeros, ones = np.zeros(self.num_envs), np.ones(self.num_envs, bool)
        return self.observation(1), zeros, ~ones, ones, {"final_obs": self.observation(2)}

    def observation(self, gait: int) -> dict:
        n = self.num_envs
        return {"gait": np.full(n, gait), "arm": (np.full((n, 2), gait / 10), np.full(n, gait % 2))}


def test_batches_of_last_observations_and_of_every_kind_of_leaf() -> None:
    gym.register("ToyArrays-v0", vector_entry_point=Arrays)
    envs = make_gymnasium_vector("ToyArrays-v0", 2)
    torch.testing.assert_close(envs.reset([0]), torch.tensor([[0.0, 0, 1, 0, 1, 0, 0]]).repeat(2, 1))
    envs.send(torch.tensor([1, 3]))
    step = envs.recv()
    torch.testing.assert_close(step.observation, torch.tensor([[0.1, 0.1, 0, 1, 0, 1, 0]]).repeat(2, 1))
    torch.testing.assert_close(step.final_observation, torch.tensor([[0.2, 0.2, 1, 0, 0, 0, 1]]).repeat(2, 1))


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete([3, 4])])
@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_choice_that_the_space_has_not_is_one_line(space: gym.Space, wrong: int) -> None:
    class Wrong(Arrays):
        single_observation_space = space

        def observation(self, gait: int) -> Any:
            return np.full((self.num_envs, *space.shape), gait and wrong)

    gym.register("ToyWrong-v0", vector_entry_point=Wrong)
    envs = make_gymnasium_vector("ToyWrong-v0", 2)
    envs.reset([0])
    envs.send(torch.tensor([1, 3]))
    with pytest.raises(
        UserError, match=r"^an environment returned an observation that is not in (Multi)?Discrete"
    ):
        envs.recv()


def test_auto_takes_what_is_registered_as_a_vector_alone() -> None:
    assert choose_backend("ToyTensorWalks-v0", "auto")[0] == "gymnasium-vector"
    assert choose_backend("toy_envs:ToyTensorWalks-v0", "auto", 1, {"mode": 1})[0] == "gymnasium-vector"
    assert choose_backend("CartPole-v1", "auto")[0] != "gymnasium-vector"
    for asked in ("gymnasium", "gymnasium-async"):
        with pytest.raises(
            UserError, match=r"^'ToyTensorWalks-v0' is registered as a vector environment alone"
        ):
            choose_backend("ToyTensorWalks-v0", asked)
    for env_id in ("ToyWalk-v0", "Hopper-v4"):
        with pytest.raises(UserError, match=f"^'{env_id}' is registered without vector_entry_point"):
            choose_backend(env_id, "gymnasium-vector")
    with pytest.raises(UserError, match=r"^unknown environment 'ToyTensorWalk-v0'; did you mean"):
        choose_backend("ToyTensorWalk-v0", "gymnasium-vector")


def test_gymnasiums_own_vector_environment_is_learned() -> None:
    with TRPO("CartPole-v1", backend="gymnasium-vector", seed=0) as agent:
        agent.learn(25_000)
        assert rlkit_es.evaluate(agent, 5).return_mean > 150


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_run_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, mode: AutoresetMode) -> None:
    def agent_of(name: str) -> rlkit_es.Algorithm:
        settings = {**SMALL, "learning_rate_schedule": "constant", "checkpoint_every": 128}
        return PPO(register(mode=mode), **settings, run_dir=tmp_path / name)

    whole = agent_of("whole").learn(384)
    agent_of("parts").learn(128)
    parts = rlkit_es.load(tmp_path / "parts").learn(256)
    for x, y in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        assert torch.equal(x, y)


def test_arguments_reach_the_constructor() -> None:
    register()
    (envs,) = make_vector_envs(
        "ToyVector-v0", 3, env_kwargs={"mode": AutoresetMode.SAME_STEP}, backend="auto", groups=3
    )
    assert envs.mode is AutoresetMode.SAME_STEP
    with pytest.raises(
        UserError, match=r"^cannot make 'ToyVector-v0': .*unexpected keyword argument 'color'"
    ):
        make_vector_envs("ToyVector-v0", 3, env_kwargs={"color": 1}, backend="auto")


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda r: r[:4], r"step must return \(observation, .*, info\), not \(Tensor, Tensor, .*\)$"),
        (
            lambda r: (r[0][:1], *r[1:]),
            r"step returned an array of shape \(1, 3\) as observation, .* \(2, 3\)$",
        ),
        (
            lambda r: (r[0], r[1][:, None], *r[2:]),
            r"step returned an array of shape \(2, 1\) as reward, .* \(2,\)$",
        ),
        (lambda r: (*r[:2], False, *r[3:]), r"step returned False as terminated, .* array of shape \(2,\)$"),
        (
            lambda r: (*r[:3], np.array([None, 1]), r[4]),
            r"step returned an array of shape \(2,\) as truncated",
        ),
        (
            lambda r: 1 / 0,
            r"raised ZeroDivisionError: division by zero \(test_gymnasium_vector.py, line \d+\)$",
        ),
    ],
)
def test_what_a_vector_environment_may_not_return_is_one_line(
    alter: Callable[[tuple], Any], said: str
) -> None:
    envs = make_gymnasium_vector(register(altered=alter), 2)
    envs.reset([1, 2])
    envs.send(torch.zeros(2, 1))
    with pytest.raises(UserError, match=f"^the vector environment:? {said}") as refused:
        envs.recv()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        ({"gait": np.zeros(2)}, "returned observation without 'arm'"),
        ({"gait": np.zeros(2), "arm": (np.zeros((2, 2)),)}, r"returned \(ndarray\) as observation\['arm'\]"),
        (
            {"gait": np.zeros(2), "arm": (np.zeros(2), np.zeros(2))},
            r"as observation\['arm'\]\[0\], .* \(2, 2\)$",
        ),
    ],
)
def test_the_leaf_that_has_another_shape_is_named(observation: Any, said: str) -> None:
    with pytest.raises(WrongReturnError, match=said):
        of_vector_reset((observation, {}), Arrays.single_observation_space, 2)


def test_last_observations_that_are_missing_are_asked_for() -> None:
    def forget(result: tuple) -> tuple:
        return *result[:4], {}

    envs = make_gymnasium_vector(register(mode=AutoresetMode.SAME_STEP, altered=forget), 2)
    with pytest.raises(
        UserError, match=r"SAME_STEP\) has to return the last observations as info\['final_obs'\]"
    ):
        played(envs)


def test_another_number_of_environments_is_refused() -> None:
    gym.register("ToyThree-v0", vector_entry_point=lambda num_envs: TensorWalks(3))
    with pytest.raises(UserError, match=r"^ToyThree-v0 has 3 environments where num_envs 4 were asked for$"):
        PPO("ToyThree-v0", **SMALL)


def test_a_mode_that_is_not_named_is_asked_for() -> None:
    class Nameless(TensorWalks):
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            self.metadata = {}

    gym.register("ToyNameless-v0", vector_entry_point=Nameless)
    with pytest.raises(UserError, match=r"does not say how it resets \(metadata\['autoreset_mode'\] is None"):
        PPO("ToyNameless-v0", **SMALL)
