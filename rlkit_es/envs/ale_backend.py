"""Atari by ale-py's own C++ vector environment: stepped and preprocessed in threads.

The usual protocol since Mnih et al. (Nature, 2015): frames of 84 x 84 grey, each the maximum of the
last two of four that an action is held for; the last four of them stacked; up to 30 no-ops and, where
the game waits for it, FIRE at the start; at most 108,000 frames. Rewards are the game's own points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlkit_es.envs.spaces import action_spec, observation_spec
from rlkit_es.envs.vector_env import Lives, Step, to_float32
from rlkit_es.errors import UserError

INSTALL_ALE = "pip install 'rlkit_es[atari]'"


def register_ale() -> None:
    """Have Gymnasium know the ids ``ALE/...``.

    Raises:
        UserError: ale-py is not installed.
    """
    try:
        import ale_py
    except ImportError as error:
        raise UserError(f"Atari needs ale-py: {INSTALL_ALE}") from error
    gym.register_envs(ale_py)


def make_game(env_id: str, sticky_actions: float, render_mode: str) -> gym.Env[Any, Any]:
    """One game that can be drawn, with the very pictures of `AleVectorEnv` as observations."""
    register_ale()
    game = gym.make(env_id, frameskip=1, repeat_action_probability=sticky_actions, render_mode=render_mode)
    pictures = gym.wrappers.AtariPreprocessing(_FireAtStart(game), noop_max=30, frame_skip=4, screen_size=84)
    stacked = gym.wrappers.FrameStackObservation(pictures, 4, padding_type="zero")
    stacked.metadata = {**game.metadata, "render_fps": 15}  # of 60, every fourth
    return stacked


class _FireAtStart(gym.Wrapper[Any, Any, Any, Any]):
    """Presses FIRE for a frame where the game waits for it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        observation, info = self.env.reset(seed=seed, options=options)
        meanings = self.env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        if len(meanings) > 1 and meanings[1] == "FIRE":
            observation, *_, info = self.env.step(1)
        return observation, info


class AleVectorEnv:
    """``num_envs`` games of one id on ``threads`` threads.

    Args:
        env_id: as Gymnasium has it: ``ALE/Pong-v5``.
        num_envs: N.
        threads: 0 is one a core.
        sticky_actions: probability that a frame repeats the action before (Machado et al., 2018).
        episodic_life: a lost life is ``terminated``, and ``life_lost``; the game goes on.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        threads: int = 0,
        *,
        sticky_actions: float = 0.0,
        episodic_life: bool = False,
    ) -> None:
        register_ale()
        self.num_envs = num_envs
        self.device = torch.device("cpu")
        self._episodic_life = episodic_life
        self._settings = {
            "game": gym.spec(env_id).kwargs["game"],
            "num_envs": num_envs,
            "num_threads": min(threads, num_envs),
            "repeat_action_probability": sticky_actions,
            "reward_clipping": False,  # of what is learned from, not of what is reported
        }
        self._envs = self._make()
        self._begun = False
        self.observation = observation_spec(self._envs.single_observation_space)
        self.action = action_spec(self._envs.single_action_space)

    def reset(self, seeds: Sequence[int]) -> Tensor:
        """Begin anew, in games that have not been played."""
        if self._begun:
            self._envs = self._make()
        self._begun = True
        observation, info = self._envs.reset(seed=np.array(seeds))
        self._ended = np.zeros(self.num_envs, dtype=bool)
        self._lives = Lives(info["lives"]) if self._episodic_life else None
        return torch.from_numpy(observation)

    def send(self, action: Tensor) -> None:
        """Hand the actions to the threads."""
        self._envs.send(action.numpy())

    def recv(self) -> Step:
        """One step; the row after an end is the reset and no transition."""
        observation, reward, terminated, truncated, info = self._envs.recv()
        step = Step(
            observation=torch.from_numpy(observation),
            reward=to_float32(reward),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(~self._ended),
        )
        self._ended = terminated | truncated
        return step if self._lives is None else self._lives.mark(step, info["lives"])

    def close(self) -> None:
        """Nothing to free beside memory."""

    def _make(self) -> Any:
        from ale_py.vector_env import AtariVectorEnv

        return AtariVectorEnv(**self._settings)
