"""Episodes of a trained policy, one after the other, where they can be seen.

Only Gymnasium draws, so its environments are used whatever training used.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from rlkit_es.envs.ale_backend import make_game
from rlkit_es.envs.envpool_backend import envpool_ids
from rlkit_es.envs.gymnasium_backend import make_one
from rlkit_es.envs.ids import is_atari
from rlkit_es.envs.registry import choose_backend
from rlkit_es.envs.spaces import action_spec, batch_of_one, flattener
from rlkit_es.envs.supervised import SupervisedEnv
from rlkit_es.envs.vector_env import env_seeds
from rlkit_es.errors import UserError
from rlkit_es.runs.drawing import prepare_drawing, reason
from rlkit_es.training.checkpoint import require_imported_environment
from rlkit_es.training.config import Config
from rlkit_es.training.episodes import Episode
from rlkit_es.training.evaluate import MOST_ENVS
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.types import ActionSpec

_FREE = -1  # of Gymnasium: no camera of the model
_TRACKING = 1  # mujoco.mjtCamera.mjCAMERA_TRACKING
_TORSO = 1  # the first body after the world

RenderMode = Literal["rgb_array", "human"]
Predict = Callable[[np.ndarray], np.ndarray]
"""Raw observations (N, O) to actions that the environment takes."""


def make_env(config: Config, action: ActionSpec, render_mode: RenderMode) -> SupervisedEnv:
    """The environment of ``config``, drawn; what that takes without a display is set up before.

    Args:
        config: of a file: it may not have a module imported.
        action: of the policy.
        render_mode: of Gymnasium.

    Raises:
        UserError: it cannot be made, cannot be drawn or is not the one that the policy is for.
    """
    require_imported_environment(config)
    prepare_drawing(config.env)
    if not is_atari(config.env):
        _require_gymnasium(config.env)
    try:
        env = SupervisedEnv(functools.partial(_make, config, render_mode), 0)
    except UserError:
        raise
    except Exception as error:  # whatever the environment does when it is made
        raise UserError(f"cannot make {config.env} to draw it: {reason(error)}") from error
    try:
        if env.render_mode != render_mode:
            modes = ", ".join(map(str, env.metadata.get("render_modes", []))) or "none"
            raise UserError(f"{config.env} cannot be drawn as {render_mode}; its render modes: {modes}")
        if not (found := action_spec(env.action_space)).fits(action):
            raise UserError(
                f"{config.env} is not the environment that the policy is for: it takes {found}, not {action}"
            )
    except BaseException:
        env.close()
        raise
    return env


def play(
    env: SupervisedEnv,
    predict: Predict,
    *,
    episodes: int,
    seed: int,
    as_in_evaluation: bool = True,
    max_steps: int | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Iterator[Episode]:
    """Whole episodes, one after the other, each as soon as it has ended.

    Args:
        env: of `make_env`.
        predict: the policy.
        episodes: how many, at least 1.
        seed: as of `evaluate_policy`.
        as_in_evaluation: the same episodes as in an evaluation on the Gymnasium backend, each of its
            environments in turn; False: all those of its first, which is never made anew.
        max_steps: that an episode is cut after; None: when it ends.
        on_frame: called where there is something new to see: after every reset and step.

    Raises:
        UserError: the environment failed, or has other observations than the policy.
    """
    environments = min(episodes, MOST_ENVS) if as_in_evaluation else 1
    step = _stepper(env, predict, environments)
    for number, env_seed in enumerate(env_seeds(seed, environments)):
        for episode in range(number, episodes, environments):  # its share
            observation, _ = env.reset(seed=env_seed if episode == number else None)
            on_frame()
            total, length, ended = 0.0, 0, False
            while not ended and (max_steps is None or length < max_steps):
                observation, reward, ended = step(observation)
                total += reward
                length += 1
                on_frame()
            yield Episode(number, total, length)


def playing_seed(config: Config, seed: int | None) -> int:
    """``seed``, or that of the evaluation at the end of training."""
    return derive_seeds(config.seed).evaluation if seed is None else seed


def _require_gymnasium(env_id: str) -> None:
    try:
        choose_backend(env_id, "gymnasium")
    except UserError as error:
        if env_id in envpool_ids():
            raise UserError(
                f"{env_id} is of EnvPool alone, which cannot draw: what is to be seen must be in "
                "Gymnasium too"
            ) from error
        raise


def _make(config: Config, render_mode: RenderMode) -> gym.Env[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old versions: the run was trained with that one
        if is_atari(config.env):
            return make_game(config.env, config.sticky_actions, render_mode)
        env = make_one(config.env, config.env_kwargs, render_mode=render_mode)
        _follow(env)
        return env


def _follow(env: gym.Env[Any, Any]) -> None:
    """Have the camera of Gymnasium's MuJoCo environments go with the robot, which else runs out of sight."""
    renderer: Any = getattr(env.unwrapped, "mujoco_renderer", None)
    camera = dict(getattr(renderer, "default_cam_config", None) or {})
    if getattr(renderer, "camera_id", None) != _FREE or camera.get("trackbodyid", _TORSO) < _TORSO:
        return  # there is no such camera, or it is to look at a place
    renderer.camera_id = None  # any other has the camera stay where it is
    renderer.default_cam_config = {"type": _TRACKING, "trackbodyid": _TORSO, **camera}


def _stepper(
    env: SupervisedEnv, predict: Predict, environments: int
) -> Callable[[Any], tuple[Any, float, bool]]:
    """From an observation to the next one, the reward and whether the episode has ended."""
    flatten = flattener(env.observation_space, 1)
    dtype = env.action_space.dtype

    def step(observation: Any) -> tuple[Any, float, bool]:
        row = flatten(batch_of_one(observation)).numpy()
        # As many rows as an evaluation has: a product of matrices of another size rounds otherwise.
        action = predict(np.repeat(row, environments, axis=0)).astype(dtype, copy=False)[0]
        observation, reward, terminated, truncated, _ = env.step(action)
        return observation, float(np.float32(reward)), bool(terminated or truncated)

    return step
