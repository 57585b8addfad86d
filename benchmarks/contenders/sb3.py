"""Stable-Baselines3's PPO and sb3-contrib's TRPO, as rl-baselines3-zoo sets them, and as we do."""

from __future__ import annotations

import math
from typing import Any

from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from contenders import equal
from contenders.race import Race, Watch
from contenders.zoo import ZOO_PPO, ZOO_TRPO, ZooEntry
from rlkit_es.training.config import Config

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


def zoo_ppo(race: Race, watch: Watch) -> None:
    """PPO with the zoo's hyperparameters."""
    _train(make_zoo_model(PPO, ZOO_PPO[race.env], race), race, watch)


def equal_ppo(race: Race, watch: Watch) -> None:
    """PPO with the hyperparameters of `equal.ppo_config`."""
    _train(make_equal_ppo(race), race, watch)


def zoo_trpo(race: Race, watch: Watch) -> None:
    """TRPO with the zoo's hyperparameters."""
    _train(make_zoo_model(TRPO, ZOO_TRPO[race.env], race), race, watch)


def equal_trpo(race: Race, watch: Watch) -> None:
    """TRPO with the hyperparameters of `equal.trpo_config`."""
    _train(make_equal_trpo(race), race, watch)


def make_zoo_model(model_class: type[OnPolicyAlgorithm], entry: ZooEntry, race: Race) -> OnPolicyAlgorithm:
    """A model and its environments, put together as the zoo does."""
    envs = make_vec_env(race.env, n_envs=entry.num_envs, seed=race.seed)
    return _make(model_class, VecNormalize(envs, gamma=entry.model["gamma"]), race, dict(entry.model))


def make_equal_ppo(race: Race) -> OnPolicyAlgorithm:
    """A model with the settings of `equal.ppo_config`."""
    config = equal.ppo_config(race)
    own = {
        "n_epochs": config.epochs,
        "clip_range": config.clip_range,
        "ent_coef": config.entropy_coefficient,
        "vf_coef": config.value_coefficient,
        "max_grad_norm": config.max_grad_norm,
    }
    return _make(PPO, _equal_envs(config, race), race, {**_equal_settings(config), **own})


def make_equal_trpo(race: Race) -> OnPolicyAlgorithm:
    """A model with the settings of `equal.trpo_config`."""
    config = equal.trpo_config(race)
    envs = _equal_envs(config, race)
    own = {
        # sb3-contrib takes the mean of the KL over the action dimensions, we their sum.
        "target_kl": config.max_kl / math.prod(envs.action_space.shape),
        "cg_max_steps": config.cg_iterations,
        "cg_damping": config.cg_damping,
        "line_search_max_iter": config.line_search_steps,
        "line_search_shrinking_factor": config.line_search_shrink,
        "n_critic_updates": config.critic_epochs,
        "sub_sampling_factor": round(1 / config.fisher_fraction),
    }
    return _make(TRPO, envs, race, {**_equal_settings(config), **own})


class _Stop(BaseCallback):
    """Ends training where the race is over.

    An iteration ends where the next rollout begins; a rollout can be left only after a step.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self._over = False

    def _on_rollout_start(self) -> None:
        if self.num_timesteps:
            self._ask()

    def _on_step(self) -> bool:
        return not self._over

    def _on_training_end(self) -> None:
        self._ask()

    def _ask(self) -> None:
        # What Monitor keeps: raw returns of the last 100 episodes.
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self._over = self._watch.iteration_ended(self.num_timesteps, returns)


def _equal_envs(config: Config, race: Race) -> VecNormalize:
    envs = make_vec_env(race.env, n_envs=config.num_envs, seed=race.seed)
    return VecNormalize(
        envs,
        norm_obs=config.normalize_observations,
        norm_reward=config.normalize_rewards,
        clip_obs=config.observation_clip,
        clip_reward=config.reward_clip,
        gamma=config.gamma,
    )


def _equal_settings(config: Config) -> dict[str, Any]:
    """What PPO and TRPO share."""

    def learning_rate(remaining: float) -> float:
        return config.learning_rate * (remaining if config.learning_rate_schedule == "linear" else 1.0)

    return {
        "learning_rate": learning_rate,
        "n_steps": config.rollout_steps,
        "batch_size": config.minibatch_size,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "normalize_advantage": config.advantage_normalization != "none",
        "policy_kwargs": {
            "net_arch": list(config.hidden_sizes),
            "activation_fn": _ACTIVATIONS[config.activation],
            "log_std_init": config.log_std_init,
            "optimizer_kwargs": {"eps": config.adam_epsilon},
        },
    }


def _make(
    model_class: type[OnPolicyAlgorithm], envs: VecNormalize, race: Race, settings: dict[str, Any]
) -> OnPolicyAlgorithm:
    model = model_class("MlpPolicy", envs, seed=race.seed, device="cpu", **settings)
    # A logger without outputs; its own would leave a folder in /tmp.
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _train(model: OnPolicyAlgorithm, race: Race, watch: Watch) -> None:
    model.learn(race.total_steps, callback=_Stop(watch))
    model.get_env().close()
