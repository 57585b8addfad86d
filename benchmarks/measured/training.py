"""Training from end to end, ours and Stable-Baselines3's, in whole iterations."""

from __future__ import annotations

import time
from typing import Any

import torch
from workers import Turn

from measured import Effort
from rlkit_es.training.callbacks import Hooks
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer

# So many that the learning rate stays what it is at the start of a run.
_ENDLESS = 1_000_000_000
# What both sides are set to: Stable-Baselines3's own defaults, but for 8 environments of 256 steps in
# place of 1 of 2048.
_COMMON: dict[str, Any] = {
    "num_envs": 8,
    "rollout_steps": 256,
    "hidden_sizes": (64, 64),
    "activation": "tanh",
    "learning_rate_schedule": "constant",
    "log_std_init": 0.0,
    "gamma": 0.99,
    "horizon_growth": 1.0,
    "gae_lambda": 0.95,
    "normalize_observations": True,
    "normalize_rewards": True,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {
        **_COMMON,
        "minibatch_size": 64,
        "epochs": 10,
        "critic_epochs": 10,
        "learning_rate": 3e-4,
        "critic_learning_rate": None,
        "log_std_learning_rate": None,
        "recompute_advantages": False,
        "clip_range": 0.2,
        "entropy_coefficient": 0.0,
    },
    "trpo": {
        **_COMMON,
        "minibatch_size": 128,
        "critic_epochs": 10,
        "learning_rate": 1e-3,
        "max_kl": 0.01,
        "cg_iterations": 15,
        "cg_damping": 0.1,
        "line_search_steps": 10,
        "line_search_shrink": 0.8,
    },
}


class IterationClock:
    """Times the iterations of a training loop that calls it, and pauses the loop between turns."""

    def __init__(self, turn: Turn, effort: Effort) -> None:
        self._turn = turn
        self._effort = effort
        self._warmup_left = effort.warmup_iterations

    def tick(self, env_steps: float) -> None:
        """An iteration ended, ``env_steps`` after the start of training."""
        if self._warmup_left > 0:
            self._warmup_left -= 1
            if self._warmup_left == 0:
                self._turn.end()
                self._restart(env_steps)
            return
        elapsed = time.perf_counter() - self._started
        if elapsed >= self._effort.training_seconds:
            self._turn.end((env_steps - self._steps) / elapsed)
            self._restart(env_steps)

    def log(self, metrics: dict[str, float]) -> None:
        """As a logger of the `Trainer`."""
        self.tick(metrics["env_steps"])

    def close(self) -> None:
        """Nothing is open."""

    def _restart(self, env_steps: float) -> None:
        self._steps = env_steps
        self._started = time.perf_counter()


def ticking(clock: IterationClock) -> Any:
    """A callback of Stable-Baselines3's: an iteration ends where the next rollout starts."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Tick(BaseCallback):
        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                clock.tick(self.num_timesteps)

        def _on_step(self) -> bool:
            return True

    return Tick()


def ours_as_sb3(turn: Turn, effort: Effort, *, algo: str, env: str) -> None:
    """Steps/s of an algorithm of ours with Stable-Baselines3's hyperparameters."""
    _train(turn, effort, Config.for_algorithm(algo, env=env, compile="on", **_SETTINGS[algo]))


def ours_default(turn: Turn, effort: Effort, *, algo: str, env: str) -> None:
    """Steps/s of an algorithm of ours as it comes."""
    _train(turn, effort, Config.for_algorithm(algo, env=env, compile="on"))


def stable_baselines3(turn: Turn, effort: Effort, *, algo: str, env: str, torch_threads: int) -> None:
    """Steps/s of Stable-Baselines3's PPO, or sb3-contrib's TRPO, with the same hyperparameters."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(torch_threads)
    settings = _SETTINGS[algo]
    envs = make_vec_env(env, n_envs=settings["num_envs"], seed=0)
    model_class, own_settings = _stable_baselines3_model(algo)
    model = model_class(
        "MlpPolicy",
        VecNormalize(envs, gamma=settings["gamma"]),
        learning_rate=settings["learning_rate"],
        n_steps=settings["rollout_steps"],
        batch_size=settings["minibatch_size"],
        gamma=settings["gamma"],
        gae_lambda=settings["gae_lambda"],
        policy_kwargs={
            "net_arch": list(settings["hidden_sizes"]),
            "activation_fn": torch.nn.Tanh,
            "log_std_init": settings["log_std_init"],
        },
        device="cpu",
        seed=0,
        **own_settings,
    )
    # A logger without outputs; its own would leave a folder in /tmp.
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.learn(_ENDLESS, callback=ticking(IterationClock(turn, effort)))


def _stable_baselines3_model(algo: str) -> tuple[Any, dict[str, Any]]:
    """The class, and what only this algorithm is told."""
    settings = _SETTINGS[algo]
    if algo == "ppo":
        from stable_baselines3 import PPO

        return PPO, {
            "n_epochs": settings["epochs"],
            "clip_range": settings["clip_range"],
            "ent_coef": settings["entropy_coefficient"],
        }
    from sb3_contrib import TRPO

    return TRPO, {
        "target_kl": settings["max_kl"],
        "cg_max_steps": settings["cg_iterations"],
        "cg_damping": settings["cg_damping"],
        "line_search_max_iter": settings["line_search_steps"],
        "line_search_shrinking_factor": settings["line_search_shrink"],
        "n_critic_updates": settings["critic_epochs"],
    }


def _train(turn: Turn, effort: Effort, config: Config) -> None:
    trainer = Trainer(config)
    try:
        trainer.train(_ENDLESS, Hooks([IterationClock(turn, effort)]))
    finally:
        trainer.close()
