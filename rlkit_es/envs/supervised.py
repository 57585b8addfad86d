"""What training needs of an environment that it knows nothing of."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from rlkit_es.envs import returned
from rlkit_es.envs.returned_vector import VectorFits, of_vector_step
from rlkit_es.errors import NonFiniteError, UserError, diverged, returned_non_finite

# Gymnasium's wrappers take apart what an environment returns before it gets here.
_OF_WRAPPERS = (Path(gym.__file__).parent, Path(gym.wrappers.__file__).parent)


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
        self._fit = returned.fitter(self.observation_space)
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin an episode; with a seed, in an environment that has seen none."""
        try:
            if seed is not None and self._seeded:
                self.env.close()
                self.env = self._make()
            self._seeded = self._seeded or seed is not None
            result: Any = self.env.reset(seed=seed, options=options)
            self._observation = returned.of_reset(result, self._fit)
        except (Exception, SystemExit) as error:
            self._fail(error, "reset", returned.RESET)
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, without its info: nothing reads it, and Gymnasium fails where its shapes change."""
        try:
            result: Any = self.env.step(action)
            self._observation, reward, terminated, truncated = returned.of_step(result, self._fit)
        except (Exception, SystemExit) as error:
            if not np.isfinite(action).all():
                raise self._reason_for_action() from error
            self._fail(error, "step", returned.STEP)
        return self._observation, reward, terminated, truncated, {}

    def _reason_for_action(self) -> NonFiniteError:
        """Why it is not finite: the observation that it follows from is not, or the policy has diverged."""
        observation: Any = gym.spaces.flatten(self.env.observation_space, self._observation)
        if np.isfinite(observation).all():
            return diverged("the policy's action")
        return returned_non_finite(self._number, "observation")

    def _fail(self, error: Exception | SystemExit, method: str, to_return: str) -> NoReturn:
        raise _failure(f"environment {self._number}", error, method, to_return) from error


class SupervisedVectorEnv(gym.vector.VectorWrapper[Any, Any, Any, Any]):
    """Says in one line what goes wrong in a vector environment of somebody's own."""

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._fits = VectorFits.of(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin anew, all of them or those that ``options`` say."""
        try:
            result: Any = self.env.reset(seed=seed, options=options)
            return returned.of_reset(result, self._fits.batch), {}
        except (Exception, SystemExit) as error:
            raise _failure("the vector environment", error, "reset", returned.RESET) from error

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of all of them."""
        try:
            result: Any = self.env.step(actions)
            return of_vector_step(result, self._fits)
        except (Exception, SystemExit) as error:
            raise _failure("the vector environment", error, "step", returned.STEP) from error


def _failure(who: str, error: Exception | SystemExit, method: str, to_return: str) -> FailedEnvironmentError:
    if isinstance(error, returned.WrongReturnError):
        return FailedEnvironmentError(f"{who}: {method} {error}")
    reason = (str(error).strip() or "no message").splitlines()[0]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if "unpack" in reason and Path(frame.filename).parent in _OF_WRAPPERS:
        return FailedEnvironmentError(f"{who}: {method} must return {to_return}: {reason}")
    return FailedEnvironmentError(
        f"{who} raised {type(error).__name__}: {reason} ({Path(frame.filename).name}, line {frame.lineno})"
    )
