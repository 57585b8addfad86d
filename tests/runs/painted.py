"""An environment that paints its frames, and what the tests of playing it share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from toy_envs import Spaces

from rlkit_es.envs.supervised import SupervisedEnv
from rlkit_es.training.config import Config
from rlkit_es.types import ActionSpec

PUSHED = ActionSpec(size=1, low=(-1.0,), high=(1.0,), shape=(1,))


class Painted(gym.Env):
    """A red square of 5 x 7 on the first frame, bluer with every step; 4 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012
    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None, paint: Callable[[int], Any] | None = None) -> None:
        self.render_mode = render_mode
        self.paint = paint

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.zeros(1, np.float32), 0.1, self.t == 4, False, {}

    def render(self) -> Any:
        if self.paint is not None:
            return self.paint(self.t)
        return np.full((5, 7, 3), (200, 0, 50 * self.t), np.uint8)


LEAVES = Dict({"hand": Box(-1, 1, (2, 2)), "eye": Box(-9, 9, (3,), np.float64)})
TOYS = {
    "ToyPainted-v0": (Painted, {}),
    "ToyDict-v0": (Spaces, {"observation_space": LEAVES, "action_space": Box(-1, 1, (2,))}),
}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    for env_id, (entry_point, settings) in TOYS.items():
        gym.register(env_id, entry_point, kwargs=settings, disable_env_checker=True)
    yield
    for env_id in TOYS:
        del gym.registry[env_id]


@pytest.fixture(autouse=True)
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No display, and nothing chosen; what is set meanwhile is undone."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")


def configure(env: str, **settings: Any) -> Config:
    small = {"num_envs": 2, "rollout_steps": 16, "minibatch_size": 16, "compile": "off", "hidden_sizes": (8,)}
    return Config.for_algorithm("ppo", **{**small, "env": env, "backend": "gymnasium", **settings})


def supervised(env_id: str, **settings: Any) -> SupervisedEnv:
    return SupervisedEnv(functools.partial(gym.make, env_id, **settings), 0)
