"""This library, with its defaults and with what others can be set to as well."""

from __future__ import annotations

import dataclasses

from contenders import equal
from contenders.race import Race, Watch
from rlkit_es.training.callbacks import Callback, Hooks
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer


def ppo(race: Race, watch: Watch) -> None:
    """PPO as it comes."""
    _train(Config.for_algorithm("ppo", env=race.env), race, watch)


def trpo(race: Race, watch: Watch) -> None:
    """TRPO as it comes."""
    _train(Config.for_algorithm("trpo", env=race.env), race, watch)


def equal_ppo(race: Race, watch: Watch) -> None:
    """PPO with the hyperparameters of `equal.ppo_config`."""
    _train(equal.ppo_config(race), race, watch)


def equal_trpo(race: Race, watch: Watch) -> None:
    """TRPO with the hyperparameters of `equal.trpo_config`."""
    _train(equal.trpo_config(race), race, watch)


class _Stop(Callback):
    """Ends training where the race is over."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_iteration(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        returns = [episode.episode_return for episode in trainer.episodes.recent]
        if self._watch.iteration_ended(int(metrics["env_steps"]), returns):
            trainer.request_stop("the race is over")


def _train(config: Config, race: Race, watch: Watch) -> None:
    own = {"seed": race.seed, "total_steps": race.total_steps, "torch_threads": 1, "env_threads": 1}
    trainer = Trainer(dataclasses.replace(config, **own))
    try:
        trainer.train(race.total_steps, Hooks(callbacks=[_Stop(watch)]))
    finally:
        trainer.close()
