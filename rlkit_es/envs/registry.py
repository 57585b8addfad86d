"""Which backend serves an environment id."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from typing import Literal

import gymnasium as gym
from gymnasium.envs import registration

from rlkit_es.envs.envpool_backend import EnvPoolVectorEnv, envpool_ids
from rlkit_es.envs.gymnasium_backend import make_gymnasium
from rlkit_es.envs.vector_env import VectorEnv
from rlkit_es.errors import UserError, first_line, suggestion

Backend = Literal["auto", "envpool", "gymnasium", "gymnasium-async"]

_INSTALL_ENVPOOL = "pip install 'rlkit_es[envpool]'"


def choose_backend(env_id: str, backend: Backend, num_envs: int | None = None) -> tuple[Backend, str]:
    """The backend that will serve ``env_id``, and why, in a few words.

    Args:
        env_id: as of `make_vector_envs`.
        backend: what is asked for.
        num_envs: how many environments will train; None: several.

    Raises:
        UserError: no backend has the id (the closest ids are named), or the one asked for does not.
    """
    in_envpool = env_id in set(envpool_ids())
    if backend == "envpool":
        if in_envpool:
            return backend, "as asked"
        if importlib.util.find_spec("envpool") is None:
            raise UserError(f"backend envpool is not installed: {_INSTALL_ENVPOOL}")
        try:
            import envpool  # noqa: F401
        except ImportError as error:
            raise UserError(f"backend envpool cannot be imported: {first_line(error)}") from error
        raise UserError(f"EnvPool does not have {env_id!r}: {suggestion(env_id, envpool_ids())}")
    if backend == "auto" and in_envpool and num_envs == 1 and env_id in gym.registry:
        return "gymnasium", "one environment alone is faster in this process than in a thread of EnvPool"
    if backend == "auto" and in_envpool:
        return "envpool", "EnvPool has this id and steps it in C++ threads"
    _require_registered(env_id)
    if backend != "auto":
        return backend, "as asked"
    if importlib.util.find_spec("envpool") is None:
        return "gymnasium", f"EnvPool is not installed; faster with {_INSTALL_ENVPOOL}"
    if not envpool_ids():
        return "gymnasium", "EnvPool is installed but cannot be imported"
    return "gymnasium", "EnvPool does not have this id"


def make_vector_envs(
    env_id: str, num_envs: int, *, backend: Backend, threads: int = 0, groups: int = 1
) -> list[VectorEnv]:
    """``num_envs`` environments from the backend that `choose_backend` gives.

    Args:
        env_id: an EnvPool id, a registered Gymnasium id, or ``module:id`` to import the module first.
        num_envs: N, over all groups.
        backend: one of `Backend`.
        threads: of EnvPool, over all groups, each of which has at least one; 0 is one a core.
        groups: how many vector environments to make of them, at most; one where the backend cannot
            work on one group while another is waited for.

    Raises:
        UserError: the id, its spaces or the backend cannot be used.
    """
    chosen, _ = choose_backend(env_id, backend, num_envs)
    if chosen == "gymnasium":
        groups = 1
    groups = min(groups, num_envs)
    sizes = [len(range(group, num_envs, groups)) for group in range(groups)]
    threads = max(1, (threads or os.cpu_count() or 1) // groups)
    try:
        if chosen == "envpool":
            return [EnvPoolVectorEnv(env_id, size, threads) for size in sizes]
        return [make_gymnasium(env_id, size, asynchronous=chosen == "gymnasium-async") for size in sizes]
    except UserError:
        raise
    except Exception as error:  # whatever the environment does when it is made
        raise UserError(f"cannot make {env_id!r}: {first_line(error)}") from error


def _require_registered(env_id: str) -> None:
    name = env_id
    if ":" in env_id:
        module, name = env_id.split(":", 1)
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module does when it is imported
            raise UserError(f"cannot import {module!r} for {env_id!r}: {first_line(error)}") from error
    if name not in gym.registry:
        # Gymnasium resolves an id without a version to its newest one.
        with contextlib.suppress(gym.error.Error):
            namespace, base, version = registration.parse_env_id(name)
            if version is None and registration.find_highest_version(namespace, base) is not None:
                return
        known = [*gym.registry, *envpool_ids()]
        raise UserError(f"unknown environment {env_id!r}; {suggestion(name, known)}")
