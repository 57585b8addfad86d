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
from rlkit_es.envs.spaces import (
    action_spec,
    as_tensor,
    batch_of_one,
    flattener,
    observation_spec,
    of_tensors,
)
from rlkit_es.envs.supervised import SupervisedEnv, SupervisedVectorEnv
from rlkit_es.envs.vector_env import Step
from rlkit_es.errors import UserError


class GymnasiumVectorEnv:
    """A Gymnasium vector environment under the `VectorEnv` contract, of arrays or of tensors.

    One that returns tensors is sent tensors, on the device of its observations, which `device` is
    from the first `reset` on.

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
        self._of_tensors = of_tensors(observation, self.env.single_observation_space)
        first = self._owned(observation)
        self.device = first.device
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return first

    def send(self, action: Tensor) -> None:
        """Begin a step; only environments in processes of their own get to work before `recv`."""
        self._sent = action if self._of_tensors else action.numpy().astype(self._action_dtype, copy=False)
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
                observation, *results, info = self.env.step_wait()
        else:
            observation, *results, info = self.env.step(self._sent)
        # Copies: the environment may hand out buffers that its next step or reset overwrites.
        reward, terminated, truncated = (
            as_tensor(result).to(dtype, copy=True)
            for result, dtype in zip(results, (torch.float32, torch.bool, torch.bool), strict=True)
        )
        ended = terminated | truncated
        current, final = self._owned(observation), None
        if self.mode is AutoresetMode.SAME_STEP and ended.any():
            final = self._final_observation(current, info, ended)
        elif self.mode is AutoresetMode.DISABLED and ended.any():
            final = current
            mask = ended if self._of_tensors else ended.numpy()
            observation, _ = self.env.reset(options={"reset_mask": mask})
            current = self._owned(observation)
            if not torch.allclose(current[~ended], final[~ended], rtol=0, atol=0, equal_nan=True):
                raise UserError(
                    "reset(options={'reset_mask': ...}) of the vector environment changes environments that "
                    "the mask leaves out"
                )
        step = Step(current, reward, terminated, truncated, valid=~self._ended, final_observation=final)
        if self.mode is AutoresetMode.NEXT_STEP:
            self._ended = ended
        return step

    def close(self) -> None:
        """Close the environments and their processes, whatever state these are in."""
        if not isinstance(self.env, gym.vector.AsyncVectorEnv):
            with contextlib.suppress(Exception), _quiet():  # the run is over, well or not
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

    def _owned(self, observation: Any) -> Tensor:
        return self._flatten(observation).clone()  # the environment keeps its buffer

    def _final_observation(self, observation: Tensor, info: dict[str, Any], ended: Tensor) -> Tensor:
        final = info["final_obs"]
        if not (isinstance(final, np.ndarray) and final.dtype == object):
            return torch.where(
                ended.view(-1, *[1] * (observation.dim() - 1)), self._owned(final), observation
            )
        result = observation.clone()
        for i in np.flatnonzero(ended):
            if final[i] is not None:
                result[i] = self._flatten_one(batch_of_one(final[i]))[0]
        return result


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
        apart = gym.vector.AsyncVectorEnv(makers, copy=False, context="spawn", autoreset_mode=mode)
        return GymnasiumVectorEnv(apart, first)
    return GymnasiumVectorEnv(gym.vector.SyncVectorEnv(makers, copy=False, autoreset_mode=mode), first)


def make_one(env: Any, env_kwargs: Mapping[str, Any], **further: Any) -> gym.Env[Any, Any]:
    """The environment of an id or a spec, with arguments that are its own, and with ``further`` ones."""
    return gym.make(env, **thawed(env_kwargs), **further)


def make_gymnasium_vector(
    env_id: str, num_envs: int, *, env_kwargs: Mapping[str, Any] = NO_KWARGS
) -> GymnasiumVectorEnv:
    """What a registered id names as its ``vector_entry_point``, asked for ``num_envs`` environments."""
    mode = gym.VectorizeMode.VECTOR_ENTRY_POINT
    with _quiet():
        env = gym.make_vec(env_id, num_envs, mode, **thawed(env_kwargs))
    return GymnasiumVectorEnv(SupervisedVectorEnv(env))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Gymnasium prints the traceback of an error that it raises as well."""
    level = gym.logger.min_level
    gym.logger.min_level = logging.CRITICAL
    try:
        yield
    finally:
        gym.logger.min_level = level
