"""Environments alone, with random actions: ours, EnvPool's own step, Gymnasium's."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor
from workers import Turn

from measured import Effort
from rlkit_es.envs.registry import make_vector_envs
from rlkit_es.envs.vector_env import VectorEnv, env_seeds
from rlkit_es.types import ActionSpec

# Actions are drawn before the clock starts, this many steps of them, and repeated.
_DRAWN_STEPS = 256


def ours(turn: Turn, effort: Effort, *, env: str, num_envs: int, threads: int, groups: int) -> None:
    """Steps/s of our environments in groups that take turns, as a rollout steps them."""
    envs = make_vector_envs(env, num_envs, backend="auto", threads=threads, groups=groups)
    actions = [_random_actions(group.action, group.num_envs) for group in envs]
    for i, group in enumerate(envs):
        group.reset(env_seeds(i, group.num_envs))
    try:
        turn.repeat(lambda: (_step_groups(envs, actions, effort.window_seconds),))
    finally:
        for group in envs:
            group.close()


def envpool_step(turn: Turn, effort: Effort, *, env: str, num_envs: int, threads: int) -> None:
    """Steps/s of EnvPool's public ``step``."""
    import envpool

    pool = envpool.make(env, env_type="gymnasium", num_envs=num_envs, num_threads=min(threads, num_envs))
    _measure_gymnasium(turn, effort, pool, pool.action_space, num_envs)


def gymnasium_sync(turn: Turn, effort: Effort, *, env: str, num_envs: int) -> None:
    """Steps/s of Gymnasium's vector environment that steps one environment after the other."""
    import gymnasium as gym

    envs = gym.vector.SyncVectorEnv([partial(gym.make, env) for _ in range(num_envs)])
    _measure_gymnasium(turn, effort, envs, envs.single_action_space, num_envs)


def _step_groups(groups: Sequence[VectorEnv], actions: Sequence[Iterator[Tensor]], seconds: float) -> float:
    valid: list[Tensor] = []
    started = time.perf_counter()
    for group, group_actions in zip(groups, actions, strict=True):
        group.send(next(group_actions))
    while time.perf_counter() - started < seconds:
        for group, group_actions in zip(groups, actions, strict=True):
            valid.append(group.recv().valid)
            group.send(next(group_actions))
    # Nothing may be under way while others measure.
    valid += [group.recv().valid for group in groups]
    elapsed = time.perf_counter() - started
    return int(torch.cat(valid).sum()) / elapsed


def _random_actions(spec: ActionSpec, num_envs: int) -> Iterator[Tensor]:
    low, high = torch.tensor(spec.low), torch.tensor(spec.high)
    drawn = low + (high - low) * torch.rand(_DRAWN_STEPS, num_envs, spec.size)
    return cycle(drawn.view(_DRAWN_STEPS, num_envs, *spec.shape).unbind(0))


def _measure_gymnasium(turn: Turn, effort: Effort, envs: Any, action_space: Any, num_envs: int) -> None:
    shape = (_DRAWN_STEPS, num_envs, *action_space.shape)
    drawn = np.random.default_rng(0).uniform(action_space.low, action_space.high, shape)
    actions = cycle(drawn.astype(action_space.dtype))
    envs.reset()
    ended = np.zeros(num_envs, dtype=bool)

    def measure() -> tuple[float]:
        nonlocal ended
        steps, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < effort.window_seconds:
            _, _, terminated, truncated, _ = envs.step(next(actions))
            # The step after an end is a reset and no transition.
            steps += num_envs - int(ended.sum())
            ended = terminated | truncated
        return (steps / elapsed,)

    turn.repeat(measure)
