"""PPO in one file of plain PyTorch and Gymnasium, with CleanRL's hyperparameters.

It was written for this comparison, after what ``ppo_continuous_action.py`` of CleanRL is documented to
do: one environment, everything eager, the ends of all episodes taken for terminations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import wrappers
from torch import Tensor, nn
from torch.distributions import Normal

from contenders.race import WINDOW, Race, Watch

ROLLOUT_STEPS = 2048
MINIBATCHES = 32
EPOCHS = 10
LEARNING_RATE = 3e-4
GAMMA = 0.99
GAE_LAMBDA = 0.95
CLIP_RANGE = 0.2
VALUE_COEFFICIENT = 0.5
MAX_GRAD_NORM = 0.5
ADAM_EPSILON = 1e-5
BOUND = 10.0  # of normalised observations and rewards


def ppo(race: Race, watch: Watch) -> None:
    """Train until the race is over."""
    torch.manual_seed(race.seed)
    actor_env = Actor(make_env(race.env), race.seed)
    agent = Agent(actor_env.observation.shape[-1], actor_env.env.action_space.shape[0])
    optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=ADAM_EPSILON)
    iterations = -(-race.total_steps // ROLLOUT_STEPS)
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - iteration / iterations)
        update(agent, optimizer, actor_env.collect(agent))
        if watch.iteration_ended((iteration + 1) * ROLLOUT_STEPS, actor_env.returns):
            break
    actor_env.env.close()


def make_env(env_id: str) -> gymnasium.Env[Any, Any]:
    """An environment that normalises and clips what it shows and pays, and counts raw returns."""
    env: gymnasium.Env[Any, Any] = wrappers.RecordEpisodeStatistics(gymnasium.make(env_id))
    env = wrappers.NormalizeObservation(wrappers.ClipAction(env))
    env = wrappers.TransformObservation(env, lambda seen: np.clip(seen, -BOUND, BOUND), env.observation_space)
    env = wrappers.NormalizeReward(env, gamma=GAMMA)
    return wrappers.TransformReward(env, lambda reward: min(max(float(reward), -BOUND), BOUND))


class Agent(nn.Module):
    """Two networks and a log standard deviation."""

    def __init__(self, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.critic = _mlp(observation_size, 1, 1.0)
        self.actor = _mlp(observation_size, action_size, 0.01)
        self.log_std = nn.Parameter(torch.zeros(action_size))

    def distribution(self, observation: Tensor) -> Normal:
        """Of the actions."""
        mean = self.actor(observation)
        return Normal(mean, self.log_std.expand_as(mean).exp())

    def value(self, observation: Tensor) -> Tensor:
        """Of the states, (M,)."""
        value: Tensor = self.critic(observation).squeeze(-1)
        return value


class Batch(NamedTuple):
    """What an update learns from."""

    observation: Tensor  # (B, O)
    action: Tensor  # (B, A)
    log_prob: Tensor  # (B,)
    value: Tensor  # (B,)
    advantage: Tensor  # (B,)


class Actor:
    """Steps one environment, from rollout to rollout."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int) -> None:
        self.env = env
        self.observation = _tensor(env.reset(seed=seed)[0])
        self.returns: deque[float] = deque(maxlen=WINDOW)

    @torch.no_grad()
    def collect(self, agent: Agent) -> Batch:
        """One rollout, with its advantages."""
        observations, actions, log_probs, values = [], [], [], []
        rewards, ends = torch.zeros(ROLLOUT_STEPS), torch.zeros(ROLLOUT_STEPS)
        for step in range(ROLLOUT_STEPS):
            distribution = agent.distribution(self.observation)
            action = distribution.sample()
            observations.append(self.observation)
            actions.append(action)
            log_probs.append(distribution.log_prob(action).sum(-1))
            values.append(agent.value(self.observation))
            rewards[step], ends[step] = self._step(action.numpy())
        value, last = torch.stack(values), agent.value(self.observation)
        advantage = generalized_advantages(rewards, value, ends, last)
        return Batch(
            torch.stack(observations), torch.stack(actions), torch.stack(log_probs), value, advantage
        )

    def _step(self, action: np.ndarray) -> tuple[float, float]:
        """The reward, and 1 where it was the episode's last."""
        seen, reward, terminated, truncated, info = self.env.step(action)
        over = terminated or truncated
        if over:
            self.returns.append(float(info["episode"]["r"]))
            seen = self.env.reset()[0]
        self.observation = _tensor(seen)
        return float(reward), float(over)


def generalized_advantages(rewards: Tensor, values: Tensor, ends: Tensor, last: Tensor) -> Tensor:
    """GAE, arXiv:1506.02438, over steps (B,), the last of which leads to a state of value ``last``."""
    going = 1 - ends
    errors = rewards + GAMMA * going * torch.cat([values[1:], last.view(1)]) - values
    advantage = torch.zeros_like(rewards)
    running = torch.zeros(())
    for step in reversed(range(len(rewards))):
        running = errors[step] + GAMMA * GAE_LAMBDA * going[step] * running
        advantage[step] = running
    return advantage


def update(agent: Agent, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Every epoch on one batch."""
    for index in _minibatches(len(batch.advantage)):
        loss = _loss(agent, Batch(*(field[index] for field in batch)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), MAX_GRAD_NORM)
        optimizer.step()


def _minibatches(samples: int) -> Iterator[Tensor]:
    for _ in range(EPOCHS):
        yield from torch.randperm(samples).split(samples // MINIBATCHES)


def _loss(agent: Agent, batch: Batch) -> Tensor:
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
    log_prob = agent.distribution(batch.observation).log_prob(batch.action).sum(-1)
    ratio = (log_prob - batch.log_prob).exp()
    clipped = ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE)
    policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
    value_target = batch.value + batch.advantage
    value = agent.value(batch.observation)
    near = batch.value + (value - batch.value).clamp(-CLIP_RANGE, CLIP_RANGE)
    value_loss = 0.5 * torch.max((value - value_target) ** 2, (near - value_target) ** 2).mean()
    return policy_loss + VALUE_COEFFICIENT * value_loss


def _mlp(inputs: int, outputs: int, output_gain: float, hidden: int = 64) -> nn.Sequential:
    gain = 2**0.5
    return nn.Sequential(
        _linear(inputs, hidden, gain),
        nn.Tanh(),
        _linear(hidden, hidden, gain),
        nn.Tanh(),
        _linear(hidden, outputs, output_gain),
    )


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _tensor(observation: np.ndarray) -> Tensor:
    return torch.as_tensor(observation, dtype=torch.float32)
