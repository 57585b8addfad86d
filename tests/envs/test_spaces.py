from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.vector import SyncVectorEnv
from toy_envs import Spaces

from rlkit_es.algorithms import PPO
from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv
from rlkit_es.envs.spaces import action_spec, flattener, observation_spec
from rlkit_es.errors import UserError

STATE, TORQUE = Box(-1, 1, (2,), np.float32), Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize(
    ("observation", "action", "way_out"),
    [
        (Discrete(5), TORQUE, "FlattenObservation"),
        (MultiBinary(4), TORQUE, "FlattenObservation"),
        (Tuple([STATE, STATE]), TORQUE, "FlattenObservation"),
        (Dict({"a": STATE, "b": Discrete(3)}), TORQUE, "FlattenObservation"),
        (Box(0, 255, (8, 8, 3), np.uint8), TORQUE, "FlattenObservation"),
        (STATE, MultiDiscrete([2, 3]), "TransformAction"),
        (STATE, MultiBinary(3), "TransformAction"),
        (STATE, Tuple([TORQUE, TORQUE]), "TransformAction"),
        (STATE, Dict({"a": TORQUE}), "TransformAction"),
        (STATE, Box(0, 9, (2,), np.int64), "TransformAction"),
        (STATE, Text(4), "TransformAction"),
    ],
    ids=str,
)
def test_unsupported_spaces_are_refused_at_construction(
    observation: gym.Space, action: gym.Space, way_out: str
) -> None:
    with pytest.raises(UserError, match=r"space|observations") as refused:
        GymnasiumVectorEnv(SyncVectorEnv([lambda: Spaces(observation, action)]))
    assert f"gymnasium.wrappers.{way_out}" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert hasattr(gym.wrappers, way_out)


def test_unsupported_spaces_are_refused_by_the_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    gym.register("ToyDiscrete-v0", lambda: Spaces(Discrete(5), TORQUE), disable_env_checker=True)
    try:
        with pytest.raises(UserError, match="FlattenObservation"):
            PPO("ToyDiscrete-v0", num_envs=2)
    finally:
        del gym.registry["ToyDiscrete-v0"]


def test_envpool_pixels_are_refused() -> None:
    pytest.importorskip("envpool")
    with pytest.raises(UserError, match="convolutional"):
        PPO("Pong-v5", num_envs=2)


def test_flattened_pixels_are_accepted() -> None:
    pixels = Spaces(Box(0, 255, (4, 4, 3), np.uint8), TORQUE)
    envs = GymnasiumVectorEnv(SyncVectorEnv([lambda: gym.wrappers.FlattenObservation(pixels)]))
    assert envs.reset([0]).shape == (1, envs.observation.size) == (1, 48)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (Box(-1, 1, (), np.float32), 1),
        (Box(-1, 1, (3,), np.float64), 3),
        (Box(-1, 1, (2, 3), np.float32), 6),
        (Box(0, 255, (128,), np.uint8), 128),
        (Dict({"b": STATE, "a": Box(-1, 1, (2, 2), np.float32), "c": Dict({"d": STATE})}), 8),
    ],
    ids=str,
)
def test_size_is_that_of_the_flattened_batch(space: gym.Space, size: int) -> None:
    assert observation_spec(space).shape == (size,)
    batch = gym.vector.utils.batch_space(space, 3)
    flat = flattener(space, 3)(batch.sample())
    assert flat.shape == (3, size)


def test_dict_leaves_come_in_key_order() -> None:
    space = Dict({"b": STATE, "a": Box(-1, 1, (2, 2), np.float32)})
    a, b = np.arange(8.0).reshape(2, 2, 2), 100 + np.arange(4.0).reshape(2, 2)
    flat = flattener(space, 2)({"b": b, "a": a})
    assert flat.tolist() == [[0, 1, 2, 3, 100, 101], [4, 5, 6, 7, 102, 103]]


def test_action_spec_of_a_box() -> None:
    spec = action_spec(Box(np.array([[-1, -2]]), np.array([[3, 4]]), dtype=np.float32))
    assert (spec.size, spec.shape, spec.discrete, spec.bounded) == (2, (1, 2), False, True)
    assert (spec.low, spec.high) == ((-1, -2), (3, 4))
    assert not action_spec(Box(-np.inf, 1, (1,), np.float32)).bounded


def test_action_spec_of_discrete() -> None:
    spec = action_spec(Discrete(4, start=2))
    assert (spec.size, spec.start, spec.discrete, spec.bounded) == (4, 2, True, False)
