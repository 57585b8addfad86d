"""What an environment may return is taken; what it may not is refused with what it has to be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from toy_envs import Altered

from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv, make_gymnasium
from rlkit_es.envs.returned import WrongReturnError, fitter
from rlkit_es.envs.vector_env import Step
from rlkit_es.errors import UserError

pytestmark = pytest.mark.usefixtures("nothing_stays_registered")

Alter = Callable[[tuple], Any]
STEP = r"step must return \(observation, reward, terminated, truncated, info\)"
RESET = r"reset must return \(observation, info\), not "
SHAPE = r"as observation, which observation_space says is an array of shape \(3,\)"


def altered(
    method: str, alter: Alter, *, asynchronous: bool = False, max_steps: int | None = None
) -> GymnasiumVectorEnv:
    """Two altered Walks, numbers 4 and 5; with `max_steps`, below one of Gymnasium's own wrappers."""
    gym.registry.pop("ToyAltered-v0", None)
    gym.register(
        "ToyAltered-v0",
        Altered,
        max_episode_steps=max_steps,
        disable_env_checker=True,
        kwargs={"method": method, "alter": alter},
    )
    return make_gymnasium("ToyAltered-v0", 2, asynchronous=asynchronous, first=4)


def steps_of(envs: GymnasiumVectorEnv, number: int = 12) -> list[Step]:
    try:
        envs.reset([1, 2])
        steps = []
        for _ in range(number):
            envs.send(torch.full((2, 1), 0.3))
            steps.append(envs.recv())
        return steps
    finally:
        envs.close()


def observation(make: Callable[[np.ndarray], Any]) -> Alter:
    return lambda result: (make(result[0]), *result[1:])


def reward(make: Callable[[float], Any]) -> Alter:
    return lambda result: (result[0], make(result[1]), *result[2:])


def flags(terminated: Callable[[bool], Any], truncated: Callable[[bool], Any]) -> Alter:
    return lambda result: (*result[:2], terminated(result[2]), truncated(result[3]), result[4])


def growing(result: tuple) -> tuple:
    return *result[:4], {"distances": np.zeros(int(10 * abs(result[1])))}


WRONG = [
    ("step", observation(lambda x: x[:2]), rf"step returned an array of shape \(2,\) {SHAPE}"),
    ("step", observation(lambda x: x[None]), rf"step returned an array of shape \(1, 3\) {SHAPE}"),
    ("step", observation(lambda x: list(range(50))), rf"step returned \[0, 1, 2, 3, 4, 5, \.\.\.\] {SHAPE}"),
    ("step", observation(lambda x: (x, {})), rf"step returned \(ndarray, dict\) {SHAPE}"),
    ("step", observation(lambda x: None), f"step returned None {SHAPE}"),
    ("step", observation(lambda x: "abc"), f"step returned 'abc' {SHAPE}"),
    ("reset", observation(lambda x: x[:2]), rf"reset returned an array of shape \(2,\) {SHAPE}"),
    ("reset", lambda result: result[0], rf"{RESET}an array of shape \(3,\)"),
    ("reset", lambda result: result[0][:2], rf"{RESET}an array of shape \(2,\)"),
    ("reset", lambda result: (0.5, 0.5), rf"{RESET}\(float, float\)"),
    ("reset", lambda result: None, f"{RESET}None"),
    ("step", lambda result: result[:4], STEP),
    ("step", lambda result: None, STEP),
    ("step", reward(lambda x: np.ones((2, 2))), r"step returned an array of shape \(2, 2\) as reward"),
    ("step", reward(lambda x: None), "step returned None as reward, which must be one number"),
    ("step", flags(lambda x: None, bool), "step returned None as terminated, which must be True or False"),
    ("step", flags(bool, lambda x: None), "step returned None as truncated, which must be True or False"),
    ("step", flags(lambda x: np.zeros(2), bool), r"step returned an array of shape \(2,\) as terminated"),
    ("step", flags(lambda x: 2, bool), "step returned 2 as terminated"),
]

SAME = {
    "list": observation(list),
    "float64": observation(np.float64),
    "tensor": observation(torch.from_numpy),
    "array of one reward": reward(lambda x: np.array([x])),
    "array without dimensions": reward(np.array),
    "tensor of one reward": reward(lambda x: torch.tensor([x], dtype=torch.float64, requires_grad=True)),
    "NumPy's bools": flags(np.bool_, np.bool_),
    "integers": flags(int, int),
    "arrays of one flag": flags(np.array, lambda x: np.array([x])),
    "info that grows": growing,
    "no info": lambda result: (*result[:4], None),
    "list of five": list,
}


@pytest.mark.parametrize("max_steps", [None, 50])
@pytest.mark.parametrize(("method", "alter", "said"), WRONG)
def test_what_an_environment_may_not_return_is_one_line(
    method: str, alter: Alter, said: str, max_steps: int | None
) -> None:
    with pytest.raises(UserError, match=f"^environment 4: {said}") as refused:
        steps_of(altered(method, alter, max_steps=max_steps))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(("method", "alter", "said"), [WRONG[0], WRONG[7], WRONG[15]])
def test_a_process_of_its_own_says_the_same(method: str, alter: Alter, said: str) -> None:
    with pytest.raises(UserError, match=f"^environment [45]: {said}"):
        steps_of(altered(method, alter, asynchronous=True))


def assert_equal(steps: list[Step], others: list[Step]) -> None:
    for step, other in zip(steps, others, strict=True):
        for x, y in zip(step, other, strict=True):
            assert (x is None and y is None) or torch.equal(x, y)


@pytest.mark.parametrize("alter", SAME.values(), ids=SAME.keys())
def test_what_means_the_same_is_taken(alter: Alter) -> None:
    assert_equal(steps_of(altered("step", alter)), steps_of(altered("step", tuple)))


def test_what_means_the_same_is_taken_from_a_process_of_its_own() -> None:
    def all_at_once(result: tuple) -> Any:
        for name in ("info that grows", "array of one reward", "NumPy's bools", "list"):
            result = SAME[name](result)
        return result

    spawned = altered("step", all_at_once, asynchronous=True)
    assert_equal(steps_of(spawned), steps_of(altered("step", tuple)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float64, object])
def test_numbers_that_the_space_can_hold_are_kept(kind: type, dtype: type) -> None:
    numbers = np.array([0, 7, 255])
    fitted = fitter(Box(0, 255, (3,), dtype))(numbers.astype(kind))
    assert np.array_equal(np.asarray(fitted, dtype), numbers)


@pytest.mark.parametrize("numbers", [[0.5, 1.0], [-1, 1], [256, 1], [np.inf, 1]])
def test_numbers_that_a_picture_cannot_hold_are_refused(numbers: list[float]) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(WrongReturnError, match="with numbers that uint8"):
        fitter(Box(0, 255, (2,), np.uint8))(np.array(numbers))


def test_the_leaf_that_is_wrong_is_named() -> None:
    leaf = Box(-1, 1, (2,), np.float32)
    fit = fitter(Dict({"arm": Dict({"hand": leaf}), "goal": leaf}))
    right = {"arm": {"hand": np.zeros(2, np.float32)}, "goal": np.ones(2, np.float32)}
    assert fit({**right, "unknown": None}) == right
    with pytest.raises(WrongReturnError, match=r"shape \(3,\) as observation\['arm'\]\['hand'\]"):
        fit({**right, "arm": {"hand": np.zeros(3)}})
    with pytest.raises(WrongReturnError, match=r"returned observation\['arm'\] without 'hand'"):
        fit({**right, "arm": {}})
    with pytest.raises(WrongReturnError, match="returned observation without 'arm'"):
        fit(np.zeros(4))


@pytest.mark.parametrize(
    ("space", "observation", "said"),
    [
        (Discrete(4), 4, r"returned 4 as observation, which is not in Discrete\(4\)"),
        (Discrete(4, start=1), 0, "returned 0 as observation, which is not in"),
        (Discrete(4), np.array([2]), r"returned an array of shape \(1,\) as observation, which is not in"),
        (Discrete(4), 2.0, "returned 2.0 as observation"),
        (MultiDiscrete([2, 3]), np.array([1, 3]), r"returned an array of shape \(2,\) as observation"),
        (Tuple([Discrete(2), Discrete(3)]), (1, 3), r"returned 3 as observation\[1\], which is not in"),
        (Tuple([Discrete(2), Discrete(3)]), (1,), r"returned \(int\) as observation, .* is a tuple of 2"),
        (Tuple([Discrete(2), Discrete(3)]), 1, "returned 1 as observation, .* is a tuple of 2"),
        (Dict({"gait": Discrete(3)}), {"gait": None}, r"returned None as observation\['gait'\]"),
    ],
    ids=str,
)
def test_a_choice_that_the_space_has_not_is_refused(space: Space, observation: Any, said: str) -> None:
    with pytest.raises(WrongReturnError, match=f"^{said}"):
        fitter(space)(observation)


def test_choices_that_the_space_has_are_kept() -> None:
    fit = fitter(Tuple([Discrete(3), Dict({"gait": MultiDiscrete([2, 3])})]))
    for one in (2, np.int64(2), np.int8(2)):
        assert fit([one, {"gait": np.array([1, 2])}])[0] == 2


@pytest.mark.parametrize("space", [MultiBinary(3), MultiDiscrete([2, 2, 2])])
def test_arrays_of_choices_come_back_in_the_dtype_of_the_space(space: Space) -> None:
    fit = fitter(space)
    for one in (np.ones(3, space.dtype), np.ones(3, np.int64), [1, 1, 1]):
        assert fit(one).dtype == space.dtype
    if isinstance(space, MultiBinary):
        assert fit(np.ones(3)).dtype == space.dtype  # NumPy's default, which the space says it contains


def test_an_environment_that_exits_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^environment 4 raised SystemExit: 3 \(test_returned.py, line"):
        steps_of(altered("step", lambda result: sys.exit(3)))
