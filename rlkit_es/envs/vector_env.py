"""The contract between environments and the rest of the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rlkit_es.errors import returned_non_finite
from rlkit_es.types import ActionSpec, ObservationSpec


class Step(NamedTuple):
    """What ``N`` environments return after one step.

    Tensors on the environments' own device, the caller's to keep: no later step overwrites them.
    """

    observation: Tensor  # (N, O) float32, or (N, C, H, W) uint8: what to act on next
    reward: Tensor  # (N,) float32, raw
    terminated: Tensor  # (N,) bool
    truncated: Tensor  # (N,) bool
    valid: Tensor  # (N,) bool: False where the action was ignored because the episode had ended
    final_observation: Tensor | None = None
    """(N, ...) the true s_{t+1} where it is not ``observation``: only environments that reset within
    the step that ended the episode have it. None: ``observation`` is the true s_{t+1}."""
    life_lost: Tensor | None = None
    """(N,) bool: ``terminated`` says so for learning alone, and the game goes on. None: nowhere."""


class VectorEnv(Protocol):
    """``N`` environments stepped together.

    A step is a `send` and a `recv`, so that the policy can act for one group of environments while
    another is simulated. An environment that reached its end returns the true final observation, and
    resets either in its next step, which then ignores the action and is no transition (``valid``
    False), or within the same step, with ``final_observation`` beside the new observation.
    """

    num_envs: int
    observation: ObservationSpec
    action: ActionSpec
    device: torch.device

    def reset(self, seeds: Sequence[int]) -> Tensor:
        """Begin anew, environment i with ``seeds[i]``; the observations, as of `Step`."""
        ...

    def send(self, action: Tensor) -> None:
        """Begin a step with an action (N, *shape) inside the bounds, or (N,) int64."""
        ...

    def recv(self) -> Step:
        """Wait for the step that was begun."""
        ...

    def close(self) -> None:
        """Free processes, threads and windows."""
        ...


def require_finite(values: Tensor, what: str, env_dimension: int = 0) -> None:
    """Refuse NaN and infinity in what environments returned.

    Raises:
        NonFiniteError: there is one; the message has the number of its environment.
    """
    finite = values.isfinite()
    if not finite.all():
        raise returned_non_finite(int((~finite).nonzero()[0, env_dimension]), what)


def env_seeds(seed: int, num_envs: int, segment: int = 0) -> list[int]:
    """A distinct seed for each environment, a function of ``seed`` and ``segment`` alone, in [0, 2**31)."""
    words = np.random.SeedSequence([seed, segment]).generate_state(2 * num_envs, dtype=np.uint32) >> 1
    distinct = list(dict.fromkeys(int(word) for word in words))
    return distinct[:num_envs]


def to_float32(array: np.ndarray) -> Tensor:
    """A NumPy array as a float32 tensor, converted at most once."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


class Lives:
    """Tells a lost life from the end of a game, by the number of lives left (N,).

    Args:
        lives: at the start.
    """

    def __init__(self, lives: np.ndarray) -> None:
        self._left = lives

    def mark(self, step: Step, lives: np.ndarray) -> Step:
        """``step`` with a lost life as ``terminated``, and as ``life_lost``."""
        outside = ~step.valid | step.terminated | step.truncated
        lost = torch.from_numpy(self.lost(lives, outside.numpy()))
        return step._replace(terminated=step.terminated | lost, life_lost=lost)

    def lost(self, lives: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """(N,) bool: one was lost in this step, which is none that ends or begins a game (``outside``)."""
        lost: np.ndarray = (lives < self._left) & ~outside
        self._left = lives
        return lost
