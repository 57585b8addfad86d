"""Tianshou's PPO, as its example for MuJoCo sets it, and as we do.

The example is examples/mujoco/mujoco_ppo.py at revision f2402056b03a of thu-ml/tianshou. Two things
differ here: environments are in this process, as those of the other libraries, and there are no test
episodes, which would cost time that the others do not spend.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory, LRSchedulerFactoryLinear
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, VectorEnvNormObs
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from torch import nn
from torch.distributions import Distribution, Independent, Normal

from contenders import equal
from contenders.race import WINDOW, Race, Watch

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hyperparameters; the defaults are the example's."""

    num_envs: int = 8
    batch_size: int = 2048  # environment steps between updates
    minibatch_size: int = 64
    epochs: int = 10
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    log_std_init: float = -0.5
    learning_rate: float = 3e-4
    linear: bool = True  # the learning rate falls to 0
    adam_epsilon: float = 1e-8
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    value_coefficient: float = 0.25
    entropy_coefficient: float = 0.0
    max_grad_norm: float = 0.5
    scale_returns: bool = True
    clip_values: bool = True
    normalize_advantages: bool = False
    recompute_advantages: bool = True


def example_ppo(race: Race, watch: Watch) -> None:
    """PPO with the hyperparameters of the example."""
    _train(Settings(), race, watch)


def equal_ppo(race: Race, watch: Watch) -> None:
    """PPO with the hyperparameters of `equal.ppo_config`."""
    _train(equal_settings(race), race, watch)


def equal_settings(race: Race) -> Settings:
    """Of `equal.ppo_config`; returns are scaled in place of rewards, which Tianshou leaves alone."""
    config = equal.ppo_config(race)
    return Settings(
        num_envs=config.num_envs,
        batch_size=config.batch_size,
        minibatch_size=config.minibatch_size,
        epochs=config.epochs,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        log_std_init=config.log_std_init,
        learning_rate=config.learning_rate,
        linear=config.learning_rate_schedule == "linear",
        adam_epsilon=config.adam_epsilon,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        value_coefficient=config.value_coefficient,
        entropy_coefficient=config.entropy_coefficient,
        max_grad_norm=config.max_grad_norm,
        scale_returns=config.normalize_rewards,
        clip_values=False,
        normalize_advantages=config.advantage_normalization != "none",
        recompute_advantages=config.recompute_advantages,
    )


class _Over(BaseException):
    """The race is over: the way out of a training loop that only test episodes can stop."""


class _CountingCollector(Collector[CollectStats]):
    """Keeps what the watch is asked with."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.env_steps = 0

    def collect(self, *arguments: Any, **keywords: Any) -> CollectStats:
        stats = super().collect(*arguments, **keywords)
        self.returns.extend(map(float, stats.returns))
        self.env_steps += stats.n_collected_steps
        return stats


def _train(settings: Settings, race: Race, watch: Watch) -> None:
    np.random.seed(race.seed)  # noqa: NPY002 - Tianshou shuffles minibatches with the global generator
    torch.manual_seed(race.seed)
    envs = make_envs(settings, race)
    algorithm = make_algorithm(settings, race, envs)
    buffer = VectorReplayBuffer(2 * settings.batch_size, settings.num_envs)
    collector = _CountingCollector(algorithm, envs, buffer, exploration_noise=True)

    def stop_if_over(epoch: int = 0, env_steps: int = 0) -> None:
        if collector.env_steps and watch.iteration_ended(collector.env_steps, collector.returns):
            raise _Over

    parameters = OnPolicyTrainerParams(
        training_collector=collector,
        max_epochs=1,
        epoch_num_steps=race.total_steps,
        collection_step_num_env_steps=settings.batch_size,
        update_step_num_repetitions=settings.epochs,
        batch_size=settings.minibatch_size,
        training_fn=stop_if_over,  # is called before each rollout
        verbose=False,
        show_progress=False,
    )
    try:
        algorithm.run_training(parameters)
        stop_if_over()
    except _Over:
        pass
    finally:
        envs.close()


def make_envs(settings: Settings, race: Race) -> VectorEnvNormObs:
    """Environments in this process, behind one normaliser of observations."""
    envs = VectorEnvNormObs(DummyVectorEnv([lambda: gymnasium.make(race.env)] * settings.num_envs))
    envs.seed(race.seed)
    return envs


def make_algorithm(settings: Settings, race: Race, envs: VectorEnvNormObs) -> PPO:
    """Networks, optimizer and algorithm."""
    action_space = envs.action_space[0]
    actor = ContinuousActorProbabilistic(
        preprocess_net=_network(settings, envs), action_shape=action_space.shape, unbounded=True
    )
    critic = ContinuousCritic(preprocess_net=_network(settings, envs))
    _initialize(actor, critic, settings.log_std_init)
    policy = ProbabilisticActorPolicy(
        actor=actor, dist_fn=_gaussian, action_space=action_space, action_bound_method="clip"
    )
    return PPO(
        policy=policy,
        critic=critic,
        optim=_optimizer(settings, race),
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        max_grad_norm=settings.max_grad_norm,
        vf_coef=settings.value_coefficient,
        ent_coef=settings.entropy_coefficient,
        return_scaling=settings.scale_returns,
        eps_clip=settings.clip_range,
        value_clip=settings.clip_values,
        advantage_normalization=settings.normalize_advantages,
        recompute_advantage=settings.recompute_advantages,
    )


def _network(settings: Settings, envs: VectorEnvNormObs) -> Net:
    return Net(
        state_shape=envs.observation_space[0].shape,
        hidden_sizes=list(settings.hidden_sizes),
        activation=_ACTIVATIONS[settings.activation],
    )


def _initialize(actor: ContinuousActorProbabilistic, critic: ContinuousCritic, log_std: float) -> None:
    """Orthogonal weights, and a first policy that hardly depends on the observation, as in the example."""
    nn.init.constant_(actor.sigma_param, log_std)
    for module in (*actor.modules(), *critic.modules()):
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, 2**0.5)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        for module in actor.mu.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(0.01)


def _gaussian(parameters: tuple[torch.Tensor, torch.Tensor]) -> Distribution:
    return Independent(Normal(*parameters), 1)


def _optimizer(settings: Settings, race: Race) -> AdamOptimizerFactory:
    factory = AdamOptimizerFactory(lr=settings.learning_rate, eps=settings.adam_epsilon)
    if settings.linear:
        schedule = LRSchedulerFactoryLinear(
            max_epochs=1,
            epoch_num_steps=race.total_steps,
            collection_step_num_env_steps=settings.batch_size,
        )
        factory.with_lr_scheduler_factory(schedule)
    return factory
