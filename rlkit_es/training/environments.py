"""The environments that a run's settings describe."""

from __future__ import annotations

from rlkit_es.envs.registry import AtariSettings, Backend, choose_backend, make_vector_envs
from rlkit_es.envs.vector_env import VectorEnv
from rlkit_es.errors import UserError
from rlkit_es.training.config import Config
from rlkit_es.types import Spaces


def make_envs(config: Config) -> list[VectorEnv]:
    """The environments that ``config`` describes, in groups.

    Raises:
        UserError: as of `make_vector_envs`, or there is another number of them.
    """
    groups = make_vector_envs(
        config.env,
        config.num_envs,
        env_kwargs=config.env_kwargs,
        backend=config.backend,
        threads=config.env_threads,
        groups=config.env_groups,
        atari=AtariSettings(config.sticky_actions, config.episodic_life),
    )
    if (there_are := sum(envs.num_envs for envs in groups)) != config.num_envs:
        raise UserError(
            f"{config.env} has {there_are} environments, whatever is asked for: num_envs has to be that"
        )
    return groups


def backend_of(config: Config) -> tuple[Backend, str]:
    """What serves the environments of ``config``, and why; raises as `choose_backend`."""
    return choose_backend(config.env, config.backend, config.num_envs, config.env_kwargs)


def spaces_of(envs: VectorEnv) -> Spaces:
    """What a policy for ``envs`` is made for."""
    return Spaces(envs.observation, envs.action)


def require_spaces(env_id: str, envs: VectorEnv, spaces: Spaces) -> None:
    """Refuse environments that a policy for ``spaces`` cannot act in.

    Raises:
        UserError: ``envs``, made of ``env_id``, are such.
    """
    if not (found := spaces_of(envs)).fits(spaces):
        raise UserError(
            f"{env_id} is not the environment that the policy is for: it has {found}, not {spaces}"
        )
