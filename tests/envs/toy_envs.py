from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode


class Walk(gym.Env):
    """Deterministic: the seed chooses where in `lengths` to begin; the ends are in turn terminations
    and truncations; every number of a transition depends on the actions before it."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, lengths: Sequence[int] = (3, 5, 2, 7), seed_shift: int = 0) -> None:
        self.lengths = lengths
        self.seed_shift = seed_shift

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.episode = self.episode + 1 if seed is None else (seed + self.seed_shift) % 100
        self.t = 0
        self.position = np.float32(0.1 * (self.episode % 7))
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.t += 1
        self.position = np.float32(0.9 * self.position + action[0])
        ended = self.t == self.lengths[self.episode % len(self.lengths)]
        odd = self.episode % 2 == 1
        reward = float(self.position + 0.25 * self.t)
        return self._observation(), reward, ended and not odd, ended and odd, {}

    def _observation(self) -> np.ndarray:
        return np.array([0.1 * self.episode, 0.2 * self.t, self.position], np.float32)


class Payday(gym.Env):
    """Pays 100, 200, ... 500 whatever the action, then ends: every return is 1500."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(np.float32(-0.3963146), np.float32(0.80775857), (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.t = 0
        return np.array([0.1 * self.t], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.array([0.1 * self.t], np.float32), 100.0 * self.t, self.t == 5, False, {}


class Badge(gym.Env):
    """Length and return of every episode tell the seed of the first reset; `seeds_seen` keeps them."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Discrete(2)
    seeds_seen: ClassVar[list[int]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        if seed is not None:
            self.seed_value = seed
            Badge.seeds_seen.append(seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        badge, length = badge_episode(self.seed_value)
        return np.zeros(1, np.float32), badge, self.t == length, False, {}


def badge_episode(seed: int) -> tuple[float, int]:
    """Reward of each step and length of the episodes of a `Badge` with that seed."""
    return float(seed % 97), 1 + seed % 7


class Broken(Walk):
    """A Walk that puts `value` in place of one number, at the `at`-th step of each episode (0: its reset)."""

    def __init__(self, what: str = "observation", at: int = 2, value: float = np.nan) -> None:
        super().__init__(lengths=(6,))
        self.what, self.at, self.value = what, at, value

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = super().step(np.zeros(1, np.float32))
        if self.what == "reward" and self.t == self.at:
            reward = self.value
        return observation, reward, terminated, truncated, info

    def _observation(self) -> np.ndarray:
        observation = super()._observation()
        if self.what == "observation" and self.t == self.at:
            observation[1] = self.value
        return observation


class Altered(Walk):
    """A Walk whose `method`, "reset" or "step", returns what `alter` makes of what it should return."""

    def __init__(self, method: str, alter: Callable[[tuple], Any]) -> None:
        super().__init__()
        self.method, self.alter = method, alter

    def reset(self, **options: Any) -> Any:
        result = super().reset(**options)
        return self.alter(result) if self.method == "reset" else result

    def step(self, action: np.ndarray) -> Any:
        result = super().step(action)
        return self.alter(result) if self.method == "step" else result


class Spaces(gym.Env):
    """Any two spaces; observations are sampled from the one, actions must lie in the other."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, length: int = 6) -> None:
        self.observation_space, self.action_space, self.length = observation_space, action_space, length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        if seed is not None:
            self.observation_space.seed(seed % 2**31)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == self.length, False, {}


class ReusedBuffers(gym.vector.VectorEnv):
    """Counts steps in arrays that each step and each reset overwrites; episodes of 2 steps."""

    def __init__(self, mode: AutoresetMode, num_envs: int = 2) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.num_envs = num_envs
        self.single_observation_space = Box(-np.inf, np.inf, (1,), np.float32)
        self.single_action_space = Box(-1, 1, (1,), np.float32)
        self.observation = np.zeros((num_envs, 1), np.float32)
        self.reward = np.zeros(num_envs, np.float32)
        self.terminated = np.zeros(num_envs, bool)
        self.truncated = np.zeros(num_envs, bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict]:
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        self.observation[mask] = 0
        self.terminated[mask] = False
        return self.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        next_step = self.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        starts = self.terminated & next_step
        self.observation[:, 0] = np.where(starts, 0, self.observation[:, 0] + 1)
        self.reward[:] = np.where(starts, 0, 10 * self.observation[:, 0])
        self.terminated[:] = self.observation[:, 0] == 2
        info = {}
        if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and self.terminated.any():
            info["final_obs"] = np.array([*self.observation.copy(), None], dtype=object)[:-1]
            self.observation[self.terminated] = 0
        return self.observation, self.reward, self.terminated, self.truncated, info


class TensorWalks(gym.vector.VectorEnv):
    """Walks of tensors that each step overwrites; `altered` makes of what `step` returns what it returns."""

    def __init__(
        self,
        num_envs: int,
        mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        altered: Callable[[tuple], Any] = tuple,
    ) -> None:
        self.num_envs = num_envs
        self.walks = gym.vector.SyncVectorEnv([Walk] * num_envs, autoreset_mode=mode)
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = Walk.observation_space, Walk.action_space
        self.observation = torch.zeros(num_envs, 3)
        self.altered = altered

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[torch.Tensor, dict]:
        if options is not None:
            options = {"reset_mask": options["reset_mask"].numpy()}
        observation, _ = self.walks.reset(seed=seed, options=options)
        return self.observation.copy_(torch.as_tensor(observation)), {}

    def step(self, action: torch.Tensor) -> Any:
        assert isinstance(action, torch.Tensor)
        observation, *results, info = self.walks.step(action.numpy())
        if "final_obs" in info:
            final = [torch.zeros(3) if row is None else torch.as_tensor(row) for row in info["final_obs"]]
            info = {"final_obs": torch.stack(final)}
        self.observation.copy_(torch.as_tensor(observation))
        return self.altered((self.observation, *map(torch.as_tensor, results), info))


for _id, _entry_point, _settings in (
    ("ToyWalk-v0", "toy_envs:Walk", {}),
    ("ToyOneStep-v0", "toy_envs:Walk", {"kwargs": {"lengths": (1,)}}),
    ("ToyPayday-v0", "toy_envs:Payday", {}),
    ("ToyBadge-v0", "toy_envs:Badge", {}),
    ("ToyNaN-v0", "toy_envs:Broken", {}),
    # Eight steps of CartPole are not enough to fall.
    ("ToyShortCartPole-v0", "gymnasium.envs.classic_control:CartPoleEnv", {"max_episode_steps": 8}),
):
    gym.register(_id, entry_point=_entry_point, disable_env_checker=True, **_settings)
gym.register("ToyTensorWalks-v0", vector_entry_point="toy_envs:TensorWalks")
