"""The settings of the equal contenders."""

from __future__ import annotations

import dataclasses

from contenders.race import Race
from rlkit_es.training.config import Config


def ppo_config(race: Race) -> Config:
    """Our PPO's defaults, without what the others have no setting for, and of many environments.

    Nobody else has a horizon that grows, which is what fewer environments and a lower lambda go with.
    Stable-Baselines3 and Tianshou have one learning rate for actor, critic and log standard deviation;
    Stable-Baselines3 computes advantages once for each batch.
    """
    return Config.for_algorithm(
        "ppo",
        env=race.env,
        num_envs=64,
        rollout_steps=32,
        horizon_growth=1.0,
        gae_lambda=0.95,
        critic_learning_rate=None,
        log_std_learning_rate=None,
        recompute_advantages=False,
    )


def trpo_config(race: Race) -> Config:
    """Our TRPO's defaults, with the rollouts, horizon and lambda of `ppo_config`, and a region that stays.

    sb3-contrib has no schedule for horizon and region; this one is as large as ours is in the mean.
    """
    as_ppo = ("num_envs", "rollout_steps", "horizon_growth", "gae_lambda")
    shared = {name: getattr(ppo_config(race), name) for name in as_ppo}
    config = Config.for_algorithm("trpo", env=race.env, **shared)
    return dataclasses.replace(config, max_kl=config.max_kl / 2, max_kl_schedule="constant")
