"""This library, with its defaults."""

from __future__ import annotations

from contenders.race import Race, Watch
from rlkit_es.training.callbacks import Callback, Hooks
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer


def ppo(race: Race, watch: Watch) -> None:
    """PPO as it comes."""
    _train("ppo", race, watch)


def trpo(race: Race, watch: Watch) -> None:
    """TRPO as it comes."""
    _train("trpo", race, watch)


class _Stop(Callback):
    """Ends training where the race is over."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_iteration(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        returns = [episode.episode_return for episode in trainer.episodes.recent]
        if self._watch.iteration_ended(int(metrics["env_steps"]), returns):
            trainer.request_stop("the race is over")


def _train(algo: str, race: Race, watch: Watch) -> None:
    config = Config.for_algorithm(
        algo,
        env=race.env,
        seed=race.seed,
        total_steps=race.total_steps,
        torch_threads=1,
        env_threads=1,
    )
    trainer = Trainer(config)
    try:
        trainer.train(race.total_steps, Hooks(callbacks=[_Stop(watch)]))
    finally:
        trainer.close()
