"""Any Gymnasium environment, in any of Gymnasium's three autoreset modes."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from torch import Tensor

from rlkit_es.envs.env_kwargs import NO_KWARGS, thawed
from rlkit_es.envs.spaces import action_spec, batch_of_one, flattener, observation_spec
from rlkit_es.envs.supervised import SupervisedEnv
from rlkit_es.envs.vector_env import Step
from rlkit_es.errors import UserError


class GymnasiumVectorEnv:
    """A Gymnasium vector environment under the `VectorEnv` contract.

    Next-step autoreset passes through. Same-step autoreset gives its final observation beside the
    new one. Where autoreset is disabled, ended environments are reset here, within the same step.

    Args:
        env: any ``gymnasium.vector.VectorEnv`` whose metadata names its autoreset mode.
        first: number of its first environment, where it is one of several groups.

    Raises:
        UserError: the mode is not named, or a space is not supported.
    """

    def __init__(self, env: gym.vector.VectorEnv, first: int = 0) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode not in set(AutoresetMode):
            raise UserError(
                f"the vector environment does not say how it resets (metadata['autoreset_mode'] is "
                f"{mode!r}): set it to gymnasium.vector.AutoresetMode.NEXT_STEP, SAME_STEP or DISABLED"
            )
        self.mode = AutoresetMode(mode)
        self.env = env
        self.num_envs = env.num_envs
        self._first = first
        self.device = torch.device("cpu")
        self.observation = observation_spec(env.single_observation_space)
        self.action = action_spec(env.single_action_space)
        self._action_dtype = env.single_action_space.dtype
        self._flatten = flattener(env.single_observation_space, env.num_envs)
        self._flatten_one = flattener(env.single_observation_space, 1)
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool)

    def reset(self, seeds: Sequence[int]) -> Tensor:
        """Begin anew with a seed for each environment, or with the first where the vector takes one."""
        one_each = isinstance(self.env.unwrapped, gym.vector.SyncVectorEnv | gym.vector.AsyncVectorEnv)
        with self._answering():
            observation, _ = self.env.reset(seed=list(seeds) if one_each else seeds[0])  # type: ignore[arg-type]
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._tensor(observation)

    def send(self, action: Tensor) -> None:
        """Begin a step; only environments in processes of their own get to work before `recv`."""
        self._sent = action.numpy().astype(self._action_dtype, copy=False)
        if isinstance(self.env, gym.vector.AsyncVectorEnv):
            with self._answering():
                self.env.step_async(self._sent)

    def recv(self) -> Step:
        """One step of every environment.

        Raises:
            UserError: one failed.
        """
        if isinstance(self.env, gym.vector.AsyncVectorEnv):
            with self._answering():
                observation, reward, terminated, truncated, info = self.env.step_wait()
        else:
            observation, reward, terminated, truncated, info = self.env.step(self._sent)
        # Copies: the environment may hand out buffers that its next step or reset overwrites.
        reward = np.array(reward, dtype=np.float32)
        terminated, truncated = np.array(terminated, dtype=bool), np.array(truncated, dtype=bool)
        ended = terminated | truncated
        current, final = self._tensor(observation), None
        if ended.any() and self.mode is AutoresetMode.SAME_STEP:
            final = self._final_observation(current, info, ended)
        elif ended.any() and self.mode is AutoresetMode.DISABLED:
            final = current
            observation, _ = self.env.reset(options={"reset_mask": ended})
            current = self._tensor(observation)
        step = Step(
            observation=current,
            reward=torch.from_numpy(reward),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=~self._ended,
            final_observation=final,
        )
        if self.mode is AutoresetMode.NEXT_STEP:
            self._ended = step.terminated | step.truncated
        return step

    def close(self) -> None:
        """Close the environments and their processes, whatever state these are in."""
        if not isinstance(self.env, gym.vector.AsyncVectorEnv):
            self.env.close()
            return
        processes = self.env.processes
        idle = self.env._state is AsyncState.DEFAULT and all(process.is_alive() for process in processes)
        with contextlib.suppress(Exception), _quiet():
            self.env.close(terminate=not idle)
        self.env.closed = True
        for process in processes:
            process.kill()

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Say which process has died, where one has."""
        try:
            with _quiet():
                yield
        except (EOFError, ConnectionError) as error:
            processes = self.env.processes if isinstance(self.env, gym.vector.AsyncVectorEnv) else []
            for process in processes:
                process.join(timeout=0.1)
            codes = {number: process.exitcode for number, process in enumerate(processes, self._first)}
            dead = [f"{number} (exit code {code})" for number, code in codes.items() if code is not None]
            raise UserError(f"environment processes have died: {', '.join(dead) or 'unknown'}") from error

    def _tensor(self, observation: Any) -> Tensor:
        return self._flatten(observation).clone()  # the environment keeps its buffer

    def _final_observation(self, observation: Tensor, info: dict[str, Any], ended: np.ndarray) -> Tensor:
        final = observation.clone()
        for i in np.flatnonzero(ended):
            final[i] = self._flatten_one(batch_of_one(info["final_obs"][i]))[0]
        return final


def make_gymnasium(
    env_id: str,
    num_envs: int,
    *,
    asynchronous: bool,
    first: int = 0,
    env_kwargs: Mapping[str, Any] = NO_KWARGS,
) -> GymnasiumVectorEnv:
    """``num_envs`` environments of a registered id, numbered from ``first``, in this process or one each."""
    # Processes of their own import what an id says, and know of nothing else that was registered in this one.
    known: Any = gym.registry.get(env_id, env_id) if asynchronous else env_id
    make: Callable[[], gym.Env[Any, Any]] = partial(make_one, known, env_kwargs)
    makers: list[Callable[[], gym.Env[Any, Any]]] = [
        partial(SupervisedEnv, make, first + number, os.getpid()) for number in range(num_envs)
    ]
    mode = AutoresetMode.NEXT_STEP
    if asynchronous:
        apart = gym.vector.AsyncVectorEnv(makers, context="spawn", autoreset_mode=mode)
        return GymnasiumVectorEnv(apart, first)
    return GymnasiumVectorEnv(gym.vector.SyncVectorEnv(makers, autoreset_mode=mode), first)


def make_one(env: Any, env_kwargs: Mapping[str, Any], **further: Any) -> gym.Env[Any, Any]:
    """The environment of an id or a spec, with arguments that are its own, and with ``further`` ones."""
    return gym.make(env, **thawed(env_kwargs), **further)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Gymnasium prints the traceback of an error that it raises as well."""
    level = gym.logger.min_level
    gym.logger.min_level = logging.CRITICAL
    try:
        yield
    finally:
        gym.logger.min_level = level
