"""What Gymnasium has by an id, once what registers it is imported."""

from __future__ import annotations

import contextlib
import importlib
import warnings

import gymnasium as gym
from gymnasium.envs import registration

from rlkit_es.envs.envpool_backend import envpool_ids
from rlkit_es.envs.ids import is_dm_control, split_module
from rlkit_es.errors import UserError, first_line, suggestion

_INSTALL_DM_CONTROL = "pip install 'rlkit_es[dmc]'"


def require_registered(env_id: str) -> None:
    """Raises UserError: what registers it cannot be imported, or does not; the closest ids are named."""
    module, name = split_module(env_id)
    if is_dm_control(env_id):
        _register_dm_control()
    elif ":" in env_id:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module does when it is imported
            raise UserError(f"cannot import {module!r} for {env_id!r}: {first_line(error)}") from error
    if _with_version(name) not in gym.registry:
        if env_id in envpool_ids():
            raise UserError(f"{env_id!r} is EnvPool's: use --backend envpool")
        known = [*gym.registry, *envpool_ids()]
        raise UserError(
            f"unknown environment {env_id!r}; {suggestion(name, known)}; "
            "one of your own needs the module that registers it: --import MODULE"
        )


def is_registered(env_id: str) -> bool:
    """Whether Gymnasium has it, once what registers it is imported."""
    try:
        require_registered(env_id)
    except UserError:
        return False
    return True


def entry_points(env_id: str) -> tuple[bool, bool]:
    """Whether Gymnasium can make one environment of that id, and whether a vector of them."""
    if ":" in env_id and not is_registered(env_id):
        return False, False
    spec = gym.registry.get(_with_version(split_module(env_id)[1]))
    return (
        spec is None or spec.entry_point is not None,
        spec is not None and spec.vector_entry_point is not None,
    )


def _with_version(name: str) -> str:
    """Gymnasium resolves an id without a version to its newest one."""
    with contextlib.suppress(gym.error.Error):
        namespace, base, version = registration.parse_env_id(name)
        if version is None:
            version = registration.find_highest_version(namespace, base)
            return registration.get_env_id(namespace, base, version)
    return name


def _register_dm_control() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the window system, where there is no display
            import dm_control.suite  # noqa: F401  # shimmy leaves it out in silence where it is missing
            import shimmy  # noqa: F401  # registers its ids
    except ImportError as error:
        raise UserError(f"DM Control needs shimmy and dm-control: {_INSTALL_DM_CONTROL}") from error
    except Exception as error:  # dm-control and MuJoCo break each other again and again
        raise UserError(
            f"dm-control cannot be imported ({first_line(error)}): dm-control 1.0.50 works with MuJoCo 3.17, "
            f"{_INSTALL_DM_CONTROL}"
        ) from error
