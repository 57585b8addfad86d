from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from painted import PUSHED, Painted, configure, headless, registered, supervised  # noqa: F401

from rlkit_es.envs.envpool_backend import envpool_ids
from rlkit_es.envs.supervised import FailedEnvironmentError, SupervisedEnv
from rlkit_es.errors import UserError
from rlkit_es.runs.playing import _make, make_env, play, playing_seed
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import evaluate_policy
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.training.trainer import Trainer


def predictor(trainer: Trainer) -> Callable[[np.ndarray], np.ndarray]:
    @torch.no_grad()
    def predict(observation: np.ndarray) -> np.ndarray:
        policy = trainer.policy
        return policy.env_action(policy.act(torch.from_numpy(observation), None)).numpy()

    return predict


def zeros(observation: np.ndarray) -> np.ndarray:
    return np.zeros((len(observation), 1), np.float32)


@pytest.mark.parametrize(
    ("env_id", "episodes"), [("CartPole-v1", 1), ("Pendulum-v1", 3), ("ToyDict-v0", 2), ("ToyBadge-v0", 37)]
)
def test_episodes_are_those_of_an_evaluation(env_id: str, episodes: int) -> None:
    trainer = Trainer(configure(env_id))
    trainer.train(64)
    trainer.close()
    evaluation = evaluate_policy(trainer.policy, trainer.config, trainer.spaces, episodes=episodes)
    with closing(supervised(env_id)) as env:
        seed = playing_seed(trainer.config, None)
        played = list(play(env, predictor(trainer), episodes=episodes, seed=seed))
    expected = zip(evaluation.returns, evaluation.lengths, strict=True)
    assert sorted((e.episode_return, e.length) for e in played) == sorted(expected)


def test_the_seed_is_that_of_the_evaluation_unless_one_is_given() -> None:
    config = configure("CartPole-v1", seed=5)
    assert playing_seed(config, None) == derive_seeds(5).evaluation
    assert playing_seed(config, 0) == 0


def test_episodes_come_as_they_end_with_a_frame_for_every_state() -> None:
    frames: list[int] = []
    with closing(supervised("ToyPainted-v0")) as env:
        played = play(env, zeros, episodes=3, seed=0, on_frame=lambda: frames.append(env.unwrapped.t))  # type: ignore[attr-defined]
        assert frames == []
        for number in range(3):
            episode = next(played)
            assert episode.length == 4
            assert episode.episode_return == pytest.approx(0.4)
            assert frames == [0, 1, 2, 3, 4] * (number + 1)
        assert list(played) == []


def test_an_episode_may_be_cut() -> None:
    with closing(supervised("ToyPainted-v0")) as env:
        assert [e.length for e in play(env, zeros, episodes=2, seed=0, max_steps=3)] == [3, 3]
        assert [e.length for e in play(env, zeros, episodes=2, seed=0, max_steps=9)] == [4, 4]


@pytest.mark.parametrize(("as_in_evaluation", "times"), [(True, 3), (False, 1)])
def test_a_window_stays_open(as_in_evaluation: bool, times: int) -> None:
    made = []

    def make() -> gym.Env:
        made.append(gym.make("ToyPainted-v0"))
        return made[-1]

    with closing(SupervisedEnv(make, 0)) as env:
        played = play(env, zeros, episodes=3, seed=0, as_in_evaluation=as_in_evaluation)
        assert len(list(played)) == 3
    assert len(made) == times


def test_an_environment_that_fails_says_so_in_one_line() -> None:
    with closing(supervised("ToyWalk-v0")) as env, pytest.raises(FailedEnvironmentError, match="Assertion"):
        list(play(env, lambda x: 9 + zeros(x), episodes=1, seed=0))


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("HalfCheeta-v4", "unknown environment 'HalfCheeta-v4'; did you mean HalfCheetah-v4"),
        ("no_such_module:Walk-v0", "is of a module that this file may not import"),
        ("ToyWalk-v0", "cannot make ToyWalk-v0 to draw it: "),
        ("CartPole-v1", "CartPole-v1 is not the environment that the policy is for: it takes ActionSpec"),
    ],
)
def test_what_cannot_be_played_is_an_error_of_one_line(env_id: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        make_env(configure(env_id), PUSHED, "rgb_array")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not envpool_ids(), reason="EnvPool is not installed")
def test_what_only_envpool_has_is_refused() -> None:
    (only, *_) = (name for name in envpool_ids() if name not in gym.registry)
    with pytest.raises(UserError, match="is of EnvPool alone, which cannot draw"):
        make_env(configure(only), PUSHED, "rgb_array")


def test_render_modes_that_an_environment_lacks_are_an_error_of_one_line() -> None:
    make_env(configure("ToyPainted-v0"), PUSHED, "rgb_array").close()
    gym.register("ToyPlain-v0", lambda render_mode: Painted(), disable_env_checker=True)
    try:
        with pytest.raises(UserError, match="cannot be drawn as rgb_array; its render modes: rgb_array"):
            make_env(configure("ToyPlain-v0"), PUSHED, "rgb_array")
    finally:
        del gym.registry["ToyPlain-v0"]


@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "Ant-v5", "Walker2d-v4", "Humanoid-v5"])
def test_the_camera_goes_with_the_robot(env_id: str) -> None:
    with closing(_make(Config(algo="ppo", env=env_id), "rgb_array")) as env:
        renderer = env.unwrapped.mujoco_renderer
        assert renderer.camera_id is None  # Gymnasium takes any other for a camera that stays
        assert renderer.default_cam_config["type"] == mujoco.mjtCamera.mjCAMERA_TRACKING
        assert env.unwrapped.model.body(renderer.default_cam_config["trackbodyid"]).name != "world"


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v4", "Reacher-v5", "CartPole-v1"])
def test_a_camera_that_looks_at_a_place_stays(env_id: str) -> None:
    with closing(_make(Config(algo="ppo", env=env_id), "rgb_array")) as env:
        renderer = getattr(env.unwrapped, "mujoco_renderer", None)
        assert renderer is None or renderer.camera_id == -1
