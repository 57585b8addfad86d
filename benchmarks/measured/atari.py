"""Atari, ours and Stable-Baselines3's PPO with the same hyperparameters: training, collection, update."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from workers import Turn

from measured import Effort
from measured.training import IterationClock, ticking
from rlkit_es.envs.registry import usable_cores
from rlkit_es.models.encoders import Precision, arithmetic
from rlkit_es.training.batches import prepare_batch
from rlkit_es.training.callbacks import Hooks
from rlkit_es.training.config import Config
from rlkit_es.training.threads import acting_threads
from rlkit_es.training.trainer import Trainer

ENV = "ALE/Pong-v5"

_ENDLESS = 1_000_000_000
_THREADS = usable_cores()
# The settings of RL Baselines3 Zoo, which are those of Schulman et al. (2017) and our own defaults.
_SETTINGS: Mapping[str, Any] = {
    "num_envs": 8,
    "rollout_steps": 128,
    "minibatch_size": 256,
    "epochs": 4,
    "critic_epochs": 4,
    "learning_rate": 2.5e-4,
    "learning_rate_schedule": "constant",
    "clip_range": 0.1,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "max_grad_norm": 0.5,
}
# Multiply-adds of the Nature CNN on one stack of 4 x 84 x 84: three convolutions and the linear layer.
_FIRST, _REST = 20 * 20 * 32 * 4 * 64, 9 * 9 * 64 * 32 * 16 + 7 * 7 * 64 * 64 * 9 + 3136 * 512
# Forwards, the gradient of the weights, and that of the inputs of all but the first layer.
_FLOP_OF_A_SAMPLE = 2 * (3 * (_FIRST + _REST) - _FIRST)
_PEAK_SIZE, _PEAK_REPEATS = 2048, 3


def training(turn: Turn, effort: Effort, *, precision: Precision) -> None:
    """Steps/s of whole iterations."""
    trainer = _trainer(precision)
    try:
        trainer.train(_ENDLESS, Hooks([IterationClock(turn, effort)]))
    finally:
        trainer.close()


def collection(turn: Turn, effort: Effort, *, precision: Precision) -> None:
    """Steps/s of rollouts alone, with the values and probabilities that Stable-Baselines3's have too."""
    trainer = _trainer(precision)
    torch.set_num_threads(_THREADS)
    trainer.begin_stage(_ENDLESS)
    collector = trainer.begin_segment()

    def collect() -> int:
        with acting_threads():
            rollout = collector.collect(trainer.policy)
        prepare_batch(rollout, trainer.policy, None, gamma=0.99, gae_lambda=0.95, sign_rewards=True)
        return int(rollout.valid.sum())

    collect()
    try:
        turn.repeat(lambda: (_per_second(collect, effort.training_seconds),))
    finally:
        trainer.close()


def update(turn: Turn, effort: Effort, *, precision: Precision) -> None:
    """GFLOP/s of the update, of a product of large matrices, and the one as a share of the other."""
    trainer = _trainer(precision)
    torch.set_num_threads(_THREADS)
    trainer.begin_stage(_ENDLESS)
    rollout = trainer.begin_segment().collect(trainer.policy)
    batch, *_ = prepare_batch(rollout, trainer.policy, None, gamma=0.99, gae_lambda=0.95)
    matrix = torch.randn(_PEAK_SIZE, _PEAK_SIZE).to(arithmetic(precision, "cpu"))

    def updated() -> float:
        trainer.learner.update(batch, 1e-5)
        return len(batch.valid) * trainer.config.epochs * _FLOP_OF_A_SAMPLE / 1e9

    def multiplied() -> float:
        for _ in range(_PEAK_REPEATS):
            matrix @ matrix
        return _PEAK_REPEATS * 2 * _PEAK_SIZE**3 / 1e9

    def measure() -> tuple[float, float, float]:
        achieved = _per_second(updated, effort.training_seconds)
        peak = _per_second(multiplied, effort.window_seconds)
        return achieved, peak, achieved / peak

    updated(), multiplied()
    try:
        turn.repeat(measure)
    finally:
        trainer.close()


def stable_baselines3_training(turn: Turn, effort: Effort) -> None:
    """Steps/s of whole iterations."""
    _stable_baselines3().learn(_ENDLESS, callback=ticking(IterationClock(turn, effort)))


def stable_baselines3_collection(turn: Turn, effort: Effort) -> None:
    """Steps/s of rollouts alone."""
    model = _stable_baselines3()
    _, callback = model._setup_learn(_ENDLESS)

    def collect() -> int:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        return int(model.n_steps * model.n_envs)

    collect()
    turn.repeat(lambda: (_per_second(collect, effort.training_seconds),))


def _trainer(precision: Precision) -> Trainer:
    return Trainer(Config.for_algorithm("ppo", env=ENV, precision=precision, **_SETTINGS))


def _stable_baselines3() -> Any:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import VecFrameStack

    from rlkit_es.envs.ale_backend import register_ale

    register_ale()
    torch.set_num_threads(_THREADS)
    single = {"frameskip": 1, "repeat_action_probability": 0.0}
    envs = make_atari_env(ENV, n_envs=_SETTINGS["num_envs"], seed=0, env_kwargs=single)
    model = PPO(
        "CnnPolicy",
        VecFrameStack(envs, n_stack=4),
        learning_rate=_SETTINGS["learning_rate"],
        n_steps=_SETTINGS["rollout_steps"],
        batch_size=_SETTINGS["minibatch_size"],
        n_epochs=_SETTINGS["epochs"],
        clip_range=_SETTINGS["clip_range"],
        ent_coef=_SETTINGS["entropy_coefficient"],
        vf_coef=_SETTINGS["value_coefficient"],
        gamma=_SETTINGS["gamma"],
        gae_lambda=_SETTINGS["gae_lambda"],
        max_grad_norm=_SETTINGS["max_grad_norm"],
        device="cpu",
        seed=0,
    )
    # A logger without outputs; its own would leave a folder in /tmp.
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _per_second(work: Callable[[], float], seconds: float) -> float:
    """What ``work`` returns, summed over a time of at least ``seconds``, by that time."""
    done, started = 0.0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        done += work()
    return done / elapsed
