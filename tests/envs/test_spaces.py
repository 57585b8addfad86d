from __future__ import annotations

import copy
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Text,
    Tuple,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_envs import Spaces

from rlkit_es.algorithms import PPO
from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv
from rlkit_es.envs.registry import make_vector_envs
from rlkit_es.envs.spaces import action_spec, batch_of_one, flattener, observation_spec
from rlkit_es.errors import UserError

STATE, TORQUE = Box(-1, 1, (2,), np.float32), Box(-1, 1, (1,), np.float32)
PICTURE = Box(0, 255, (8, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("observation", "action", "way_out"),
    [
        (Text(5), TORQUE, "TransformObservation"),
        (Sequence(STATE), TORQUE, "TransformObservation"),
        (Graph(STATE, None), TORQUE, "TransformObservation"),
        (Dict({"a": STATE, "b": Tuple([Discrete(3), Text(5)])}), TORQUE, "TransformObservation"),
        (Box(0, 255, (4, 8, 8, 3), np.uint8), TORQUE, "GrayscaleObservation"),
        (Box(0, 255, (4, 8, 8, 3), np.uint8), TORQUE, "FlattenObservation"),
        (Dict({"a": STATE, "b": PICTURE}), TORQUE, "FlattenObservation"),
        (Dict({"a": STATE, "b": Dict({"c": Box(0, 255, (8, 8), np.uint8)})}), TORQUE, "FlattenObservation"),
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
    gym.register("ToyText-v0", lambda: Spaces(Text(5), TORQUE), disable_env_checker=True)
    try:
        with pytest.raises(UserError, match="TransformObservation"):
            PPO("ToyText-v0", num_envs=2)
    finally:
        del gym.registry["ToyText-v0"]


@pytest.mark.parametrize(
    "picture", [PICTURE, Box(0, 255, (35, 84), np.uint8), Box(0, 255, (3, 84, 35), np.uint8)], ids=str
)
def test_pictures_too_small_for_the_network_are_refused_by_the_policy(picture: Box) -> None:
    GymnasiumVectorEnv(SyncVectorEnv([lambda: Spaces(picture, TORQUE)]))
    gym.register("ToyPicture-v0", lambda: Spaces(picture, TORQUE), disable_env_checker=True)
    try:
        with pytest.raises(UserError, match=r"gymnasium\.wrappers\.ResizeObservation") as refused:
            PPO("ToyPicture-v0", num_envs=2)
    finally:
        del gym.registry["ToyPicture-v0"]
    assert "\n" not in str(refused.value)


def test_the_way_out_of_a_picture_that_is_too_small() -> None:
    large = gym.wrappers.ResizeObservation(Spaces(PICTURE, TORQUE), (36, 40))
    envs = GymnasiumVectorEnv(SyncVectorEnv([lambda: large]))
    assert envs.observation.shape == (3, 36, 40)
    assert envs.reset([0]).shape == (1, 3, 36, 40)


def test_the_way_out_of_a_stack_of_coloured_pictures() -> None:
    def stack(env: gym.Env) -> gym.Env:
        return gym.wrappers.FrameStackObservation(env, 4)

    with pytest.raises(UserError, match=r"gymnasium\.wrappers\.GrayscaleObservation before"):
        GymnasiumVectorEnv(SyncVectorEnv([lambda: stack(Spaces(PICTURE, TORQUE))]))
    grey = gym.wrappers.GrayscaleObservation(Spaces(PICTURE, TORQUE))
    envs = GymnasiumVectorEnv(SyncVectorEnv([lambda: stack(grey)]))
    assert envs.reset([0]).shape == (1, 4, 8, 6)
    assert envs.observation.shape == (4, 8, 6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 6), (1, 8, 6)),
        ((8, 6, 3), (3, 8, 6)),
        ((8, 6, 1), (1, 8, 6)),
        ((4, 8, 6), (4, 8, 6)),
        ((1, 8, 6), (1, 8, 6)),
        ((84, 84, 4), (4, 84, 84)),
    ],
)
def test_the_channels_of_a_picture_come_first(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    space = Box(0, 255, shape, np.uint8)
    spec = observation_spec(space)
    assert (spec.shape, spec.pixels, spec.size, spec.dtype) == (expected, True, np.prod(shape), torch.uint8)
    batch = gym.vector.utils.batch_space(space, 5).sample()
    pictures = flattener(space, 5)(batch)
    assert pictures.shape == (5, *expected)
    assert pictures.dtype == torch.uint8
    assert pictures.is_contiguous()
    for picture, original in zip(pictures, batch, strict=True):
        if len(shape) == 2:
            assert np.array_equal(picture[0], original)
        elif expected == shape:
            assert np.array_equal(picture, original)
        else:
            for channel in range(expected[0]):
                assert np.array_equal(picture[channel], original[..., channel])


@pytest.mark.parametrize("space", [Box(0, 1, (8, 6, 3), np.float32), Box(0, 255, (48,), np.uint8)], ids=str)
def test_only_bytes_of_two_dimensions_or_three_are_a_picture(space: Box) -> None:
    spec = observation_spec(space)
    assert (spec.shape, spec.pixels, spec.dtype) == ((np.prod(space.shape),), False, torch.float32)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3), (3, 8, 6)])
def test_pictures_of_gymnasium_are_the_environments_own_and_not_overwritten(shape: tuple[int, ...]) -> None:
    def make() -> Spaces:
        return Spaces(Box(0, 255, shape, np.uint8), TORQUE)

    envs = GymnasiumVectorEnv(SyncVectorEnv([make, make]))
    plain = [make(), make()]
    flatten = flattener(plain[0].observation_space, 1)
    kept = [envs.reset([1, 2])]
    expected = [[env.reset(seed=seed)[0] for env, seed in zip(plain, (1, 2), strict=True)]]
    for _ in range(4):
        envs.send(torch.zeros(2, 1))
        kept.append(envs.recv().observation)
        expected.append([env.step(np.zeros(1, np.float32))[0] for env in plain])
    for pictures, originals in zip(kept, expected, strict=True):
        assert pictures.dtype == torch.uint8
        for picture, original in zip(pictures, originals, strict=True):
            assert np.array_equal(picture, flatten(original[None])[0])


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_final_picture_of_an_episode(mode: AutoresetMode) -> None:
    def seen(space: Box) -> tuple[torch.Tensor, torch.Tensor | None]:
        env = Spaces(space, TORQUE, length=2)
        envs = GymnasiumVectorEnv(SyncVectorEnv([lambda: env], autoreset_mode=mode))
        envs.reset([3])
        for _ in range(2):
            envs.send(torch.zeros(1, 1))
            step = envs.recv()
        assert step.terminated.all()
        return step.observation, step.final_observation

    env = Spaces(Box(0, 255, (8, 6, 3), np.uint8), TORQUE)
    env.reset(seed=3)
    last = [env.step(np.zeros(1, np.float32))[0] for _ in range(2)][-1]
    observation, final = seen(Box(0, 255, (8, 6, 3), np.uint8))
    true = observation if mode is AutoresetMode.NEXT_STEP else final
    assert true is not None
    assert true.dtype == torch.uint8
    assert np.array_equal(true[0], np.moveaxis(last, -1, 0))


def test_envpools_atari_is_a_picture() -> None:
    pytest.importorskip("envpool")
    (envs,) = make_vector_envs("ALE/Pong-v5", 1, backend="envpool")
    assert envs.observation.pixels
    assert envs.reset([0]).shape == (1, 4, 84, 84)
    envs.close()


def test_a_batch_of_one() -> None:
    space = Dict({"b": STATE, "a": Dict({"c": Box(-1, 1, (2, 2), np.float32)})})
    sample = space.sample()
    batch = batch_of_one(sample)
    assert batch["b"].shape == (1, 2)
    assert batch["a"]["c"].shape == (1, 2, 2)
    flat = flattener(space, 1)(batch)
    assert np.array_equal(flat[0], np.r_[sample["a"]["c"].ravel(), sample["b"]])
    assert batch_of_one(PICTURE.sample()).shape == (1, *PICTURE.shape)


def test_flattened_pixels_are_accepted() -> None:
    pixels = Spaces(Box(0, 255, (4, 4, 3), np.uint8), TORQUE)
    envs = GymnasiumVectorEnv(SyncVectorEnv([lambda: gym.wrappers.FlattenObservation(pixels)]))
    assert envs.reset([0]).shape == (1, envs.observation.size) == (1, 48)


OF_NUMBERS = [
    Discrete(5),
    Discrete(3, start=-1),
    MultiDiscrete([2, 3, 4]),
    MultiDiscrete([[2, 3], [4, 1]], start=[[0, -2], [5, 1]]),
    MultiBinary(4),
    MultiBinary([2, 3]),
    Tuple([STATE, Discrete(3, start=2), Dict({"b": MultiBinary(2), "a": STATE})]),
    Dict({"gait": Discrete(3), "feet": MultiBinary(4), "arm": Tuple([STATE, MultiDiscrete([2, 3])])}),
]


@pytest.mark.parametrize("space", OF_NUMBERS, ids=str)
def test_a_batch_is_flattened_as_gymnasium_flattens_one(space: gym.Space) -> None:
    space.seed(3)
    batch_space = gym.vector.utils.batch_space(space, 50)
    batch_space.seed(4)
    batch = batch_space.sample()
    flat = flattener(space, 50)(batch)
    assert flat.shape == (50, *observation_spec(space).shape)
    for numbers, one in zip(flat, gym.vector.utils.iterate(batch_space, batch), strict=True):
        assert np.array_equal(numbers, gym.spaces.flatten(space, one))
    one = space.sample()
    assert np.array_equal(flattener(space, 1)(batch_of_one(one))[0], gym.spaces.flatten(space, one))


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("space", OF_NUMBERS, ids=str)
def test_what_vector_environments_of_gymnasium_see_is_what_one_alone_sees(
    space: gym.Space, mode: AutoresetMode
) -> None:
    kinds = [copy.deepcopy(space) for _ in range(4)]
    makers = [partial(Spaces, kind, TORQUE, length=2) for kind in kinds[:2]]
    envs = GymnasiumVectorEnv(SyncVectorEnv(makers, autoreset_mode=mode))
    seen = [envs.reset([1, 2])]
    for _ in range(2):
        envs.send(torch.zeros(2, 1))
        step = envs.recv()
        seen.append(step.observation if step.final_observation is None else step.final_observation)
    for number, kind in enumerate(kinds[2:]):
        env = Spaces(kind, TORQUE, length=2)
        alone = [env.reset(seed=number + 1)[0], *(env.step(np.zeros(1, np.float32))[0] for _ in range(2))]
        for observation, one in zip(seen, alone, strict=True):
            assert np.array_equal(observation[number], gym.spaces.flatten(kind, one))


def test_arrays_are_taken_as_they_lie_in_memory() -> None:
    numbers = np.arange(6.0)[::-1].reshape(2, 3)
    assert torch.equal(flattener(Box(-9, 9, (3,)), 2)(numbers), torch.tensor([[5.0, 4, 3], [2, 1, 0]]))
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    for turned in (picture[::-1], picture.swapaxes(0, 1)):
        turned.flags.writeable = False
        taken = flattener(Box(0, 255, turned.shape, np.uint8), 1)(batch_of_one(turned))
        assert np.array_equal(taken[0], np.moveaxis(turned, -1, 0))


def test_envpools_choices_are_as_gymnasium_flattens_them() -> None:
    envpool = pytest.importorskip("envpool")
    (envs,) = make_vector_envs("Taxi-v3", 8, backend="envpool")
    seen = [envs.reset(range(8))]
    for _ in range(20):
        envs.send(torch.ones(8, dtype=torch.int64))
        seen.append(envs.recv().observation)
    envs.close()
    plain = envpool.make_gymnasium("Taxi-v3", num_envs=8, env_seed=list(range(8)), num_threads=1)
    for observation in seen:
        states = plain.step(np.ones(8, np.int32))[0] if observation is not seen[0] else plain.reset()[0]
        assert torch.equal(observation.argmax(1), torch.as_tensor(states).flatten().long())
        assert torch.equal(observation.sum(1), torch.ones(8))
        assert observation.shape == (8, 500)


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


def test_mujocos_infinity_is_no_bound() -> None:
    spec = action_spec(Box(-1e10, 1e10, (2,), np.float64))
    assert (spec.low, spec.high, spec.bounded) == ((-np.inf,) * 2, (np.inf,) * 2, False)
    assert action_spec(Box(-9e9, 9e9, (1,), np.float64)).bounded


def test_an_action_without_numbers_is_refused() -> None:
    with pytest.raises(UserError, match="is not supported"):
        action_spec(Box(-1, 1, (0,)))


def test_action_spec_of_discrete() -> None:
    spec = action_spec(Discrete(4, start=2))
    assert (spec.size, spec.start, spec.discrete, spec.bounded) == (4, 2, True, False)
