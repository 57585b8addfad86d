"""What training needs of an environment that it knows nothing of."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import gymnasium as gym
import numpy as np

from rlkit_es.errors import NonFiniteError, UserError, diverged, returned_non_finite

_Result = TypeVar("_Result", bound=tuple[Any, ...])


class FailedEnvironmentError(UserError):
    """An environment raised; the message says which, what and where."""


class SupervisedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Is made anew when it is given a seed, and says in one line what goes wrong in it.

    Made anew, not reset: what an environment keeps over a reset would otherwise differ between a run
    and the same run resumed.

    Args:
        make: makes the environment.
        number: of this one, for messages.
        trainer: id of the process that trains; None: this one.
    """

    def __init__(
        self, make: Callable[[], gym.Env[Any, Any]], number: int, trainer: int | None = None
    ) -> None:
        if trainer not in (None, os.getpid()):
            # Ctrl-C reaches every process of the terminal; the one that trains decides what it means.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        super().__init__(make())
        self._make = make
        self._number = number
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin an episode; with a seed, in an environment that has seen none."""
        try:
            if seed is not None and self._seeded:
                self.env.close()
                self.env = self._make()
            self._seeded = self._seeded or seed is not None
            return self._seen(self.env.reset(seed=seed, options=options))
        except Exception as error:
            self._fail(error)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step."""
        try:
            return self._seen(self.env.step(action))
        except Exception as error:
            if not np.isfinite(action).all():
                raise self._reason_for_action() from error
            self._fail(error)

    def _seen(self, result: _Result) -> _Result:
        self._observation = result[0]
        return result

    def _reason_for_action(self) -> NonFiniteError:
        """Why it is not finite: the observation that it follows from is not, or the policy has diverged."""
        observation: Any = gym.spaces.flatten(self.env.observation_space, self._observation)
        if np.isfinite(observation).all():
            return diverged("the policy's action")
        return returned_non_finite(self._number, "observation")

    def _fail(self, error: Exception) -> NoReturn:
        reason = (str(error).strip() or "no message").splitlines()[0]
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise FailedEnvironmentError(
            f"environment {self._number} raised {type(error).__name__}: {reason} "
            f"({Path(frame.filename).name}, line {frame.lineno})"
        ) from error
