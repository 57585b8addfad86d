"""Collecting a rollout, and turning it into the batch of one update."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from rlkit_es.core.gae import generalized_advantage
from rlkit_es.core.losses import explained_variance
from rlkit_es.envs.vector_env import Step, VectorEnv
from rlkit_es.errors import NonFiniteError
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.normalizers import RewardScaler
from rlkit_es.types import Batch, Rollout


class RolloutCollector:
    """Steps the environments, which begin anew for it, with the current policy.

    Args:
        groups: environments; while the policy acts for one group, the others are simulated. Episodes
            go on from one rollout to the next.
        steps: T.
        generator: a CPU generator for the action noise.
        seeds: of the environments, N over all groups.
        device: where rollouts are wanted.
    """

    def __init__(
        self,
        groups: Sequence[VectorEnv],
        steps: int,
        *,
        generator: torch.Generator,
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        self.steps = steps
        self.generator = generator
        self.device = device
        self._sizes = [envs.num_envs for envs in groups]
        starts = accumulate(self._sizes, initial=0)
        self._groups = [
            _Group(envs, envs.reset(seeds[start : start + envs.num_envs]).to(device))
            for envs, start in zip(groups, starts, strict=False)
        ]

    @torch.no_grad()
    def collect(self, policy: ActorCritic) -> Rollout:
        """T steps of every environment.

        Raises:
            NonFiniteError: the policy's actions are NaN or infinite, or the environment returned such
                an observation or reward.
        """
        noise = policy.distribution.noise((self.steps, sum(self._sizes)), self.generator).to(self.device)
        group_noise = [part.contiguous().unbind(0) for part in torch.split(noise, self._sizes, dim=1)]
        act = policy.frozen()
        for t in range(self.steps):
            for group, noises in zip(self._groups, group_noise, strict=True):
                group.wait()
                group.begin(*act(group.observation, noises[t]))
        rollouts = [group.finish() for group in self._groups]
        rollout = Rollout(*(torch.cat(field, dim=1) for field in zip(*rollouts, strict=True)))
        _require_finite(rollout)
        return rollout


class _Group:
    """One vector environment and what has been seen of it in this rollout."""

    def __init__(self, envs: VectorEnv, observation: Tensor) -> None:
        self.envs = envs
        self.observation = observation  # (N, O) to act on next
        self._clear()

    def begin(self, action: Tensor, env_action: Tensor) -> None:
        """Begin a step; ``action`` is stored, ``env_action`` is what the environments receive."""
        self._observations.append(self.observation)
        self._actions.append(action)
        self.envs.send(env_action.to(self.envs.device))

    def wait(self) -> None:
        """Take in the step that was begun, if one was."""
        if len(self._actions) > len(self._steps):
            step = self.envs.recv()
            self._steps.append(step)
            self.observation = step.observation.to(self.observation.device)

    def finish(self) -> Rollout:
        """The rollout so far; the next one begins where it ends."""
        self.wait()
        device = self.observation.device
        observations = torch.stack([*self._observations, self.observation])
        next_observation = observations[1:]
        finals = {
            t: s.final_observation for t, s in enumerate(self._steps) if s.final_observation is not None
        }
        if finals:
            next_observation = next_observation.clone()
            for t, final in finals.items():
                next_observation[t] = final

        def field(name: str) -> Tensor:
            return torch.stack([getattr(step, name) for step in self._steps]).to(device)

        rollout = Rollout(
            observation=observations[:-1],
            next_observation=next_observation,
            action=torch.stack(self._actions),
            reward=field("reward"),
            terminated=field("terminated"),
            truncated=field("truncated"),
            valid=field("valid"),
        )
        self._clear()
        return rollout

    def _clear(self) -> None:
        self._observations: list[Tensor] = []
        self._actions: list[Tensor] = []
        self._steps: list[Step] = []


def _require_finite(rollout: Rollout) -> None:
    seen = rollout.observation.isfinite().flatten(2).all(-1)
    acted = rollout.action.isfinite().flatten(2).all(-1) if rollout.action.dim() > 2 else seen
    if (seen & ~acted).any():  # the policy's own doing: it was given numbers
        raise NonFiniteError("the policy's action is not finite: lower the learning rate")
    for name in ("observation", "next_observation", "reward"):
        finite = torch.isfinite(getattr(rollout, name))
        if not finite.all():
            env = int((~finite).nonzero()[0, 1])
            raise NonFiniteError(
                f"environment {env} returned a non-finite {name.removeprefix('next_')}: "
                "check its simulation, or end the episode where it becomes unstable"
            )


@torch.no_grad()
def prepare_batch(
    rollout: Rollout,
    policy: ActorCritic,
    reward_scaler: RewardScaler | None,
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Batch, float]:
    """Advantages, value targets and the behaviour policy's parameters, in a few large operations.

    Returns:
        the batch, and the explained variance of the critic before its update.
    """
    observation = policy.normalize(rollout.observation)
    value = policy.critic(observation)
    next_value = _next_values(rollout, policy, value)
    reward, done = rollout.reward, rollout.done
    if reward_scaler is not None:
        reward = reward_scaler(reward, done, rollout.valid)
    advantage, value_target = generalized_advantage(
        reward,
        value,
        next_value,
        rollout.terminated,
        done,
        gamma=gamma,
        gae_lambda=gae_lambda,
        valid=rollout.valid,
    )
    observation = observation.flatten(0, 1)
    valid = rollout.valid.flatten()
    batch = Batch(
        observation=observation,
        action=rollout.action.flatten(0, 1),
        behaviour=policy.actor(observation),
        advantage=advantage.flatten(),
        value_target=value_target.flatten(),
        valid=valid,
    )
    explained = explained_variance(value.flatten(), batch.value_target, valid)
    return batch, float(explained)


def _next_values(rollout: Rollout, policy: ActorCritic, value: Tensor) -> Tensor:
    """V(s_{t+1}) of the true next observations, (T, N).

    Row t + 1 mostly begins with row t's next observation, whose value is then known already.
    """
    known = (rollout.next_observation[:-1] == rollout.observation[1:]).all()
    first = len(value) - 1 if known else 0
    unknown = policy.critic(policy.normalize(rollout.next_observation[first:]))
    return torch.cat([value[1 : first + 1], unknown])
