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
from rlkit_es.envs.returned import WrongReturnError
from rlkit_es.envs.returned_vector import batch_fitter
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
        constant = {"learning_rate_schedule": "constant", "horizon_growth": 1}
        settings = {**SMALL, **constant, "checkpoint_every": 128}
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
        (
            lambda r: (*r[:2], r[1], *r[3:]),
            r"step returned .* as terminated, which must be of True and",
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
        batch_fitter(Arrays.single_observation_space, 2)(observation)


FINAL = {
    "none": lambda final: {},
    "no info": lambda final: None,
    "ended rows alone": lambda final: {"final_obs": final[:1]},
    "one number each": lambda final: {"final_obs": final[:, :1]},
    "turned": lambda final: {"final_obs": final.T},
    "a dict": lambda final: {"final_obs": {"obs": final}},
    "objects of two dimensions": lambda final: {"final_obs": final.numpy().astype(object)},
    "None where an episode was truncated": lambda final: {"final_obs": np.full(2, None)},
}


@pytest.mark.parametrize("give", FINAL.values(), ids=FINAL.keys())
def test_last_observations_that_are_none_are_refused(give: Callable[[Any], Any]) -> None:
    def altered(result: tuple) -> tuple:
        return (*result[:4], give(result[4]["final_obs"])) if result[4] else result

    envs = make_gymnasium_vector(register(mode=AutoresetMode.SAME_STEP, altered=altered), 2)
    with pytest.raises(UserError, match=r"^the vector environment: step .*info\['final_obs'\]") as refused:
        played(envs)
    assert "\n" not in str(refused.value)


def test_last_observations_may_be_an_array_of_arrays_as_gymnasiums_own() -> None:
    def apart(result: tuple) -> tuple:
        *rest, terminated, truncated, info = result
        if info:
            rows = np.full(2, None, dtype=object)
            for i in np.flatnonzero(truncated):
                rows[i] = info["final_obs"][i].numpy()
            info = {"final_obs": rows}
        return *rest, terminated, truncated, info

    _, whole = played(make_gymnasium_vector(register(mode=AutoresetMode.SAME_STEP), 2))
    _, parts = played(make_gymnasium_vector(register(mode=AutoresetMode.SAME_STEP, altered=apart), 2))
    assert any(step.truncated.any() for step in whole)
    for x, y in zip(whole, parts, strict=True):
        for i in np.flatnonzero(x.truncated):
            assert torch.equal(x.final_observation[i], y.final_observation[i])


class Strange:
    """An array of a library that NumPy alone knows how to ask."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values.numpy().astype(dtype or np.float64)


SAME = {
    "float64": lambda x: x.double(),
    "bfloat16": lambda x: x.bfloat16().float(),
    "longdouble": lambda x: x.numpy().astype(np.longdouble),
    "big-endian": lambda x: x.numpy().astype(">f4"),
    "of another library": Strange,
    "needs a gradient": lambda x: x.clone().requires_grad_(),
    "read only": lambda x: np.broadcast_to(x.numpy(), x.shape),
}


@pytest.mark.parametrize("alter", SAME.values(), ids=SAME.keys())
def test_numbers_of_any_kind_are_taken(alter: Callable[[torch.Tensor], Any]) -> None:
    def of_kind(result: tuple) -> tuple:
        observation, reward, *flags, info = result
        return alter(observation), alter(reward.float()), *(flag.to(torch.uint8) for flag in flags), info

    class First(TensorWalks):  # it is what `reset` returns that says what it is sent
        def reset(self, **options: Any) -> tuple:
            observation, info = super().reset(**options)
            return alter(observation), info

        def step(self, action: Any) -> Any:
            return super().step(torch.as_tensor(action))

    gym.register("ToyKind-v0", vector_entry_point=First, kwargs={"altered": of_kind})
    _, expected = played(make_gymnasium_vector(register(), 2))
    _, found = played(make_gymnasium_vector("ToyKind-v0", 2))
    for x, y in zip(expected, found, strict=True):
        for a, b in zip(x, y, strict=True):
            assert a is None or (a.dtype == b.dtype and torch.allclose(a.float(), b.float(), rtol=0.01))


@pytest.mark.parametrize(
    "wrong", [lambda x: x.numpy().astype(str), lambda x: x.to_sparse(), lambda x: x + 1j, lambda x: None]
)
def test_what_is_no_number_is_one_line(wrong: Callable[[torch.Tensor], Any]) -> None:
    envs = make_gymnasium_vector(register(altered=lambda r: (wrong(r[0]), *r[1:])), 2)
    with pytest.raises(UserError, match=r"^the vector environment: step returned .* which must be an array"):
        played(envs)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_pictures_of_another_kind_are_refused(kind: type) -> None:
    fit = batch_fitter(Box(0, 255, (8, 8, 3), np.uint8), 2)
    for picture in (np.zeros((2, 8, 8, 3), kind), torch.from_numpy(np.zeros((2, 8, 8, 3), kind))):
        with pytest.raises(WrongReturnError, match=f"returned {kind.__name__} as observation, .* is uint8"):
            fit(picture)
    assert fit(torch.zeros(2, 8, 8, 3, dtype=torch.uint8)).dtype is torch.uint8


def test_an_environment_that_does_not_read_the_mask_is_found_out() -> None:
    class Forgetful(TensorWalks):
        def reset(self, *, seed: Any = None, options: Any = None) -> tuple:
            return super().reset(seed=[5, 6] if seed is None else seed)

    gym.register("ToyForgetful-v0", vector_entry_point=Forgetful, kwargs={"mode": AutoresetMode.DISABLED})
    with pytest.raises(UserError, match=r"reset\(options=.* changes environments that the mask leaves out"):
        played(make_gymnasium_vector("ToyForgetful-v0", 2))


def test_ids_without_a_version() -> None:
    assert choose_backend("ToyTensorWalks", "auto")[0] == "gymnasium-vector"
    assert choose_backend("ToyTensorWalks", "gymnasium-vector")[0] == "gymnasium-vector"
    assert choose_backend("CartPole", "gymnasium-vector")[0] == "gymnasium-vector"


def test_what_fails_when_it_is_closed_does_not_lose_the_run() -> None:
    class Fragile(TensorWalks):
        def close_extras(self, **_: Any) -> None:
            raise RuntimeError("closed")

    gym.register("ToyFragile-v0", vector_entry_point=Fragile)
    PPO("ToyFragile-v0", **SMALL).learn(64).close()


def test_another_number_of_environments_is_refused() -> None:
    gym.register("ToyThree-v0", vector_entry_point=lambda num_envs: TensorWalks(3))
    with pytest.raises(UserError, match=r"^ToyThree-v0 has 3 environments, whatever is asked for"):
        PPO("ToyThree-v0", **SMALL)
    agent = PPO("ToyThree-v0", **{**SMALL, "num_envs": 3})
    assert rlkit_es.evaluate(agent.learn(48), 7).episodes == 7  # on all three
    agent.close()


def test_a_mode_that_is_not_named_is_asked_for() -> None:
    class Nameless(TensorWalks):
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            self.metadata = {}

    gym.register("ToyNameless-v0", vector_entry_point=Nameless)
    with pytest.raises(UserError, match=r"does not say how it resets \(metadata\['autoreset_mode'\] is None"):
        PPO("ToyNameless-v0", **SMALL)
