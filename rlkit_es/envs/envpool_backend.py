"""EnvPool: environments stepped by C++ threads. It resets in the step after the end."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlkit_es.envs.spaces import action_spec, flattener, leaves, observation_spec
from rlkit_es.envs.vector_env import Lives, Step, to_float32
from rlkit_es.errors import UserError, first_line, suggestion

# Arguments of every pool, which are not the environment's.
_OF_THE_POOL = frozenset(
    {
        *("num_envs", "batch_size", "num_threads", "max_num_players", "thread_affinity_offset", "base_path"),
        *("seed", "env_seed", "gym_reset_return_info", "version"),
    }
)


def envpool_ids() -> list[str]:
    """Every id that the installed EnvPool has; empty where EnvPool is not installed."""
    try:
        import envpool
    except ImportError:
        return []
    return list(envpool.list_all_envs())


def require_arguments(env_id: str, env_kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that EnvPool's environment does not take.

    Raises:
        UserError: one is unknown (the closest is named), or a value is of another kind.
    """
    import envpool

    with _quiet():
        defaults = envpool.make_spec(env_id).config._asdict()
        known = [name for name in defaults if name not in _OF_THE_POOL]
        for name in env_kwargs:
            if name not in known:
                raise UserError(f"EnvPool's {env_id} has no argument {name!r}; {suggestion(name, known)}")
        try:
            envpool.make_spec(env_id, **env_kwargs)
        except TypeError as error:
            usual = {name: defaults[name] for name in env_kwargs}
            raise UserError(
                f"EnvPool's {env_id} takes env_kwargs of other kinds: by default they are {usual}"
            ) from error


class EnvPoolVectorEnv:
    """``num_envs`` environments of one EnvPool id on ``threads`` threads.

    Steps go to the pool's own ``_send`` and ``_recv``. The Gymnasium layer above them builds an info
    dict at every step, which nothing here reads (docs/decisions.md).

    Args:
        env_id: EnvPool's own.
        num_envs: N.
        threads: 0 is one a core.
        settings: further ones of this id, by EnvPool's names.
        leaves_out: leaves of a Dict observation that are no part of it here.
        episodic_life: a lost life is ``terminated``, and ``life_lost``; the game goes on.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        threads: int = 0,
        *,
        settings: Mapping[str, Any] | None = None,
        leaves_out: Collection[str] = (),
        episodic_life: bool = False,
    ) -> None:
        import envpool

        self.env_id = env_id
        self.num_envs = num_envs
        self.device = torch.device("cpu")
        self._threads = min(threads, num_envs)
        self._settings = dict(settings or {})
        self._episodic_life = episodic_life
        with _quiet():
            spec = envpool.make_spec(env_id, **self._settings)
            observation_space = spec.gymnasium_observation_space
            action_space = spec.gymnasium_action_space
        if leaves_out:
            kept = {name: leaf for name, leaf in observation_space.items() if name not in leaves_out}
            observation_space = gym.spaces.Dict(kept)
        self.observation = observation_spec(observation_space)
        self._flatten = [flattener(leaf, num_envs) for leaf in leaves(observation_space)]
        self._leaves_out = {f"obs:{leaf}" for leaf in leaves_out}
        self.action = action_spec(action_space)
        # The pool itself wants 32 bits where Gymnasium's Discrete says 64.
        self._action_dtype = np.dtype(np.int32) if self.action.discrete else action_space.dtype
        self._env_ids = np.arange(num_envs, dtype=np.int32)
        self._pool: Any = None
        self._ended = np.zeros(num_envs, dtype=bool)
        self._lives: Lives | None = None

    def reset(self, seeds: Sequence[int]) -> Tensor:
        """Make the pool anew: EnvPool takes seeds at construction only."""
        self.close()
        self._pool = self._make_pool(seeds)
        if not all(hasattr(self._pool, name) for name in ("_reset", "_send", "_recv", "_state_keys")):
            raise UserError(
                "this version of EnvPool is not supported: pip install envpool==1.2.5, or use "
                "--backend gymnasium"
            )
        keys = list(self._pool._state_keys)
        self._reward, self._done, self._truncated = map(keys.index, ("reward", "done", "trunc"))
        # "obs" alone, or one "obs:name" for each leaf of a Dict: in key order.
        found = [(key, i) for i, key in enumerate(keys) if _is_observation(key)]
        self._leaves = [i for key, i in sorted(found) if key not in self._leaves_out]
        self._ended = np.zeros(self.num_envs, dtype=bool)
        self._pool._reset(self._env_ids)
        state = self._pool._recv()
        self._lives = None
        if self._episodic_life:
            self._lives_key = keys.index("info:lives")
            self._lives = Lives(state[self._lives_key])
        return self._observation(state)

    def send(self, action: Tensor) -> None:
        """Hand the actions to the pool's threads."""
        self._pool._send((self._env_ids, self._env_ids, action.numpy().astype(self._action_dtype)))

    def recv(self) -> Step:
        """One step; the row after an end is the reset and no transition."""
        state = self._pool._recv()
        done, truncated = state[self._done], state[self._truncated]
        step = Step(
            observation=self._observation(state),
            reward=to_float32(state[self._reward]),
            terminated=torch.from_numpy(done & ~truncated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(~self._ended),
        )
        self._ended = done
        return step if self._lives is None else self._lives.mark(step, state[self._lives_key])

    def close(self) -> None:
        """Free the pool's threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _make_pool(self, seeds: Sequence[int]) -> Any:
        """Raises UserError: a setting is of a right kind, and EnvPool cannot do it."""
        import envpool

        try:
            with _quiet():
                return envpool.make(
                    self.env_id,
                    env_type="gymnasium",
                    num_envs=self.num_envs,
                    num_threads=self._threads,
                    env_seed=list(seeds),
                    **self._settings,
                )
        except Exception as error:  # whatever the environments do when they are made
            raise UserError(f"cannot make {self.env_id!r}: {first_line(error)}") from error

    def _observation(self, state: list[np.ndarray]) -> Tensor:
        parts = [flatten(state[i]) for flatten, i in zip(self._flatten, self._leaves, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _is_observation(key: str) -> bool:
    return key == "obs" or key.startswith("obs:")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """EnvPool's spaces are float64, and Gymnasium warns of each bound."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
