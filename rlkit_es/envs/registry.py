"""Which backend serves an environment id."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import gymnasium as gym

from rlkit_es.envs.ale_backend import AleVectorEnv, register_ale
from rlkit_es.envs.env_kwargs import NO_KWARGS, thawed
from rlkit_es.envs.envpool_backend import EnvPoolVectorEnv, envpool_ids, require_arguments
from rlkit_es.envs.gymnasium_backend import make_gymnasium, make_gymnasium_vector
from rlkit_es.envs.ids import (
    LONGEST_GAME,
    envpool_id,
    is_atari,
    is_dm_control,
    leaves_of_other_tasks,
    named_as_elsewhere,
    split_module,
)
from rlkit_es.envs.origins import gymnasium_serves, is_of_another, package_of
from rlkit_es.envs.registered import entry_points, is_registered, require_registered
from rlkit_es.envs.vector_env import VectorEnv
from rlkit_es.errors import UserError, first_line, suggestion

Backend = Literal["auto", "envpool", "ale", "gymnasium", "gymnasium-async", "gymnasium-vector"]

_INSTALL_ENVPOOL = "pip install 'rlkit_es[envpool]'"


class AtariSettings(NamedTuple):
    """What may differ in how an Atari game is played."""

    sticky_actions: float = 0.0  # probability that a frame repeats the action before
    episodic_life: bool = False  # what is learned from ends with a life


def choose_backend(
    env_id: str,
    backend: Backend,
    num_envs: int | None = None,
    env_kwargs: Mapping[str, Any] = NO_KWARGS,
) -> tuple[Backend, str]:
    """The backend that will serve ``env_id``, and why, in a few words.

    Args:
        env_id: as of `make_vector_envs`.
        backend: what is asked for.
        num_envs: how many environments will train; None: several.
        env_kwargs: as of `make_vector_envs`.

    Raises:
        UserError: no backend has the id (the closest ids are named), or the one asked for does not.
    """
    _refuse_other_names(env_id)
    own_id = envpool_id(env_id)
    if backend == "envpool":
        _require_envpool(own_id)
        return backend, "as asked"
    if is_atari(env_id):
        return _choose_for_atari(env_id, backend)
    if backend == "ale":
        raise UserError(f"backend ale is for Atari (ALE/Pong-v5), not for {env_id!r}: use --backend auto")
    if backend == "auto" and entry_points(env_id) == (False, True):
        return "gymnasium-vector", "it is registered as a vector environment, which steps itself"
    if backend == "auto" and env_kwargs and is_registered(env_id):
        return "gymnasium", "env_kwargs are its constructor's, and EnvPool's arguments have other names"
    in_envpool = own_id in set(envpool_ids())
    if backend == "auto" and in_envpool and is_of_another(env_id):
        return "gymnasium", "it was registered with Gymnasium, and what EnvPool has by this id is another"
    if backend == "auto" and in_envpool and num_envs == 1 and gymnasium_serves(env_id):
        return "gymnasium", "one environment alone is faster in this process than in a thread of EnvPool"
    if backend == "auto" and in_envpool:
        named = "has this id" if own_id == env_id else f"has this task, as {own_id},"
        return "envpool", f"EnvPool {named} and steps it in C++ threads"
    require_registered(env_id)
    if backend != "auto":
        _require_entry_point(env_id, backend)
        return backend, "as asked"
    if importlib.util.find_spec("envpool") is None:
        return "gymnasium", f"EnvPool is not installed; faster with {_INSTALL_ENVPOOL}"
    if not envpool_ids():
        return "gymnasium", "EnvPool is installed but cannot be imported"
    return "gymnasium", "EnvPool does not have this id"


def make_vector_envs(
    env_id: str,
    num_envs: int,
    *,
    env_kwargs: Mapping[str, Any] = NO_KWARGS,
    backend: Backend,
    threads: int = 0,
    groups: int = 1,
    atari: AtariSettings | None = None,
) -> list[VectorEnv]:
    """``num_envs`` environments from the backend that `choose_backend` gives.

    Args:
        env_id: an EnvPool id, a registered Gymnasium id, or ``module:id`` to import the module first.
        num_envs: N, over all groups.
        env_kwargs: arguments of the constructor, by the names that the backend has for them; none of Atari.
        backend: one of `Backend`.
        threads: of EnvPool or ale-py, over all groups, each of which has at least one; 0 is one a core.
        groups: how many vector environments to make of them, at most; one where the backend cannot
            work on one group while another is waited for.
        atari: for Atari alone; None: every game to its end, no sticky actions.

    Raises:
        UserError: the id, its spaces or the backend cannot be used.
    """
    chosen, _ = choose_backend(env_id, backend, num_envs, env_kwargs)
    if chosen in ("gymnasium", "gymnasium-vector"):
        groups = 1
    groups = min(groups, num_envs)
    sizes = [len(range(group, num_envs, groups)) for group in range(groups)]
    threads = max(1, (threads or usable_cores()) // groups)
    try:
        return [
            _make(env_id, env_kwargs, size, sum(sizes[:group]), chosen, threads, atari or AtariSettings())
            for group, size in enumerate(sizes)
        ]
    except UserError:
        raise
    except Exception as error:  # whatever the environment does when it is made
        raise UserError(f"cannot make {env_id!r}: {first_line(error)}") from error


def usable_cores() -> int:
    """Processors that this process may use: what a scheduler gave it, not what the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make(
    env_id: str,
    env_kwargs: Mapping[str, Any],
    size: int,
    first: int,
    backend: Backend,
    threads: int,
    atari: AtariSettings,
) -> VectorEnv:
    """Environments number ``first`` to ``first + size - 1`` of all groups."""
    if backend == "ale":
        return AleVectorEnv(env_id, size, threads, **atari._asdict())
    if backend == "envpool":
        if not is_atari(env_id):
            settings = thawed(env_kwargs)
            if settings:
                require_arguments(envpool_id(env_id), settings)
            left_out = leaves_of_other_tasks(env_id)
            return EnvPoolVectorEnv(envpool_id(env_id), size, threads, settings=settings, leaves_out=left_out)
        settings = {"repeat_action_probability": atari.sticky_actions, "max_episode_steps": LONGEST_GAME}
        return EnvPoolVectorEnv(
            envpool_id(env_id), size, threads, settings=settings, episodic_life=atari.episodic_life
        )
    if backend == "gymnasium-vector":
        return make_gymnasium_vector(env_id, size, env_kwargs=env_kwargs)
    apart = backend == "gymnasium-async"
    return make_gymnasium(env_id, size, asynchronous=apart, first=first, env_kwargs=env_kwargs)


def _refuse_other_names(env_id: str) -> None:
    """An Atari game by another name would be learned without Atari's protocol."""
    module, name = split_module(env_id)
    if module and (is_atari(name) or is_dm_control(name)):
        raise UserError(f"the environment {env_id!r} is called {name} here, without the module")
    here = named_as_elsewhere(env_id)
    if here is None or not _may_be_atari(env_id):
        return
    with contextlib.suppress(UserError):  # ale-py is not installed
        register_ale()
    if here in gym.registry:
        raise UserError(
            f"the environment {env_id!r} is called {here} here, which is played by Atari's usual protocol; "
            "--backend envpool takes EnvPool's"
        )


def _may_be_atari(env_id: str) -> bool:
    """Whether nobody else has registered it with Gymnasium."""
    return env_id not in gym.registry or package_of(gym.registry[env_id]) == "ale_py"


def _choose_for_atari(env_id: str, backend: Backend) -> tuple[Backend, str]:
    if backend not in ("auto", "ale"):
        raise UserError(f"Atari is served by the backends ale and envpool, not by {backend}: use auto")
    register_ale()
    if env_id not in gym.registry:
        games = [known for known in gym.registry if is_atari(known)]
        raise UserError(f"unknown environment {env_id!r}; {suggestion(env_id, games)}")
    return "ale", "ale-py steps and preprocesses Atari in C++ threads" if backend == "auto" else "as asked"


def _require_envpool(own_id: str) -> None:
    if own_id in set(envpool_ids()):
        return
    if importlib.util.find_spec("envpool") is None:
        raise UserError(f"backend envpool is not installed: {_INSTALL_ENVPOOL}")
    try:
        import envpool  # noqa: F401
    except ImportError as error:
        raise UserError(f"backend envpool cannot be imported: {first_line(error)}") from error
    raise UserError(f"EnvPool does not have {own_id!r}: {suggestion(own_id, envpool_ids())}")


def _require_entry_point(env_id: str, backend: Backend) -> None:
    alone, vector = entry_points(env_id)
    if backend == "gymnasium-vector" and not vector:
        raise UserError(f"{env_id!r} is registered without vector_entry_point: use --backend auto")
    if backend != "gymnasium-vector" and not alone:
        raise UserError(
            f"{env_id!r} is registered as a vector environment alone: use --backend gymnasium-vector, or "
            "register an entry_point too, which record and play need"
        )
