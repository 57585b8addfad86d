"""The one training loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlkit_es.envs.registry import make_vector_envs
from rlkit_es.envs.vector_env import env_seeds
from rlkit_es.errors import NonFiniteError
from rlkit_es.learners.compilation import should_compile
from rlkit_es.learners.diagnostics import policy_shift
from rlkit_es.learners.learner import make_learner
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.normalizers import RewardScaler
from rlkit_es.training.config import Config
from rlkit_es.training.device import resolve_device
from rlkit_es.training.episodes import EpisodeTracker
from rlkit_es.training.logging import Logger
from rlkit_es.training.rollout import RolloutCollector, prepare_batch
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.types import ActionSpec


@dataclass
class Progress:
    """How far training has come."""

    iteration: int = 0
    env_steps: int = 0  # transitions: resets are not counted
    wall_seconds: float = 0.0


class Trainer:
    """Envs, policy and learner of one run; `train` may be called again to go on.

    Sets the process's number of torch threads to ``config.torch_threads``.

    Raises:
        UserError: the environment, the device or the backend cannot be used.
    """

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(config.torch_threads)
        self.config = config
        self.progress = Progress()
        self.device = resolve_device(config.device)
        seeds = derive_seeds(config.seed)
        self.envs = make_vector_envs(
            config.env,
            config.num_envs,
            backend=config.backend,
            threads=config.env_threads,
            groups=config.env_groups,
        )
        self.observation_size, self.action = self.envs[0].observation_size, self.envs[0].action
        self.policy = make_policy(config, self.observation_size, self.action, seeds.networks)
        self.policy.to(self.device)
        self.reward_scaler = (
            RewardScaler(config.num_envs, config.gamma, config.reward_clip).to(self.device)
            if config.normalize_rewards
            else None
        )
        self.learner = make_learner(
            config.algo,
            self.policy,
            config,
            torch.Generator().manual_seed(seeds.minibatches),
            watch_stop=self.device.type == "cpu",
        )
        self.collector = RolloutCollector(
            self.envs,
            config.rollout_steps,
            generator=torch.Generator().manual_seed(seeds.action_noise),
            seeds=env_seeds(seeds.envs, config.num_envs),
            device=self.device,
        )
        self.episodes = EpisodeTracker(config.num_envs)
        self.metrics: dict[str, float] = {}

    def train(self, total_steps: int, loggers: Sequence[Logger] = ()) -> None:
        """Train for ``total_steps`` more environment steps, over which the schedule runs once.

        Raises:
            NonFiniteError: naming the quantity and the iteration.
            UserError: compilation was asked for and is not possible.
        """
        if should_compile(self.config.compile, total_steps, self.device)[0]:
            self.learner.compile()
        begin = self.progress.env_steps
        while self.progress.env_steps < begin + total_steps:
            self.metrics = self._iterate(1 - (self.progress.env_steps - begin) / total_steps)
            for logger in loggers:
                logger.log(self.metrics)

    def close(self) -> None:
        """Free the environments."""
        for envs in self.envs:
            envs.close()

    def _iterate(self, remaining: float) -> dict[str, float]:
        """One rollout and the update on it, with ``remaining`` of training left, from 1 to 0."""
        started = time.perf_counter()
        self.progress.iteration += 1
        try:
            rollout = self.collector.collect(self.policy)
            batch, explained_variance = prepare_batch(
                rollout,
                self.policy,
                self.reward_scaler,
                gamma=self.config.gamma,
                gae_lambda=self.config.gae_lambda,
            )
            update = self.learner.update(batch, self._learning_rate(remaining), remaining)
        except NonFiniteError as error:
            raise NonFiniteError(f"iteration {self.progress.iteration}: {error}") from error
        shift = policy_shift(self.policy, batch, self.config.dropout_threshold)
        # Only now: the update saw the normaliser that the rollout was acted with.
        if self.policy.normalizer is not None:
            self.policy.normalizer.merge(rollout.observation.flatten(0, 1), batch.valid)
        self.episodes.track(rollout)
        steps, seconds = int(rollout.valid.sum()), time.perf_counter() - started
        self.progress.env_steps += steps
        self.progress.wall_seconds += seconds
        return {
            "env_steps": self.progress.env_steps,
            "iteration": self.progress.iteration,
            "wall_seconds": self.progress.wall_seconds,
            "steps_per_second": steps / seconds,
            **self.episodes.means(),
            **shift,
            **update,
            "explained_variance": explained_variance,
        }

    def _learning_rate(self, remaining: float) -> float:
        scheduled = self.config.learning_rate_schedule == "linear"
        return self.config.learning_rate * (remaining if scheduled else 1.0)


def make_policy(config: Config, observation_size: int, action: ActionSpec, seed: int) -> ActorCritic:
    """The untrained policy that ``config`` describes, on the CPU."""
    return ActorCritic(
        observation_size,
        action,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        log_std_init=config.log_std_init,
        observation_clip=config.observation_clip,
        normalize_observations=config.normalize_observations,
        scale_actions=config.scale_actions,
        generator=torch.Generator().manual_seed(seed),
    )
