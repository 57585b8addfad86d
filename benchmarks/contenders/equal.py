"""The settings of the equal contenders."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import gymnasium

from contenders.race import Race
from rlkit_es.training.config import Config
from rlkit_es.training.policy import initial_log_std


def ppo_config(race: Race) -> Config:
    """Our PPO's defaults, without what the others have no setting for.

    Stable-Baselines3 and Tianshou have one learning rate for actor, critic and log standard deviation;
    Stable-Baselines3 computes advantages once for each batch.
    """
    config = Config.for_algorithm(
        "ppo",
        env=race.env,
        critic_learning_rate=None,
        log_std_learning_rate=None,
        recompute_advantages=False,
    )
    return _with_initial_noise(config)


def trpo_config(race: Race) -> Config:
    """Our TRPO's defaults."""
    return _with_initial_noise(Config.for_algorithm("trpo", env=race.env))


def _with_initial_noise(config: Config) -> Config:
    """The others have no rule for it, and need the number."""
    with closing(gymnasium.make(config.env)) as env:
        (actions,) = env.action_space.shape
    return replace(config, log_std_init=initial_log_std(config, actions))
