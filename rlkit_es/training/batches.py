"""Turning a rollout into the batch of one update."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit_es.core.gae import generalized_advantage
from rlkit_es.core.losses import explained_variance
from rlkit_es.learners.estimates import Estimates, Estimator
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.normalizers import RewardScaler
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.types import Batch, Rollout


class Prepared(NamedTuple):
    """A rollout, ready for the update."""

    batch: Batch
    explained_variance: float  # of the critic before the update
    estimator: Estimator  # of the batch, with the normalisers as they are


@torch.no_grad()
def prepare_batch(
    rollout: Rollout,
    policy: ActorCritic,
    reward_scaler: RewardScaler | None,
    *,
    gamma: float,
    gae_lambda: float,
    sign_rewards: bool = False,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Advantages, value targets and the behaviour policy's parameters, in a few large operations.

    Args:
        rollout: of the policy as it is.
        policy: left as it is.
        reward_scaler: counts the rewards; None: they are not scaled.
        gamma: discount factor.
        gae_lambda: GAE's.
        sign_rewards: take -1, 0 or 1 in place of each reward.
        ranks: whose rewards are scaled, and whose critic is judged, together.
    """
    observation = policy.normalize(rollout.observation).flatten(0, 1)
    if rollout.behaviour is None or rollout.value is None:
        behaviour, value = policy.evaluate(observation)
        value = value.view_as(rollout.reward)
    else:
        behaviour, value = rollout.behaviour.flatten(0, 1), rollout.value
    reward = rollout.reward.sign() if sign_rewards else rollout.reward
    if reward_scaler is not None:
        reward = reward_scaler(reward, rollout.done, rollout.valid, ranks)
    unseen = _unseen(rollout, policy)

    def estimates(policy: ActorCritic, value: Tensor) -> Estimates:
        advantage, value_target = generalized_advantage(
            reward,
            value,
            _next_values(policy, value, unseen),
            rollout.terminated,
            rollout.done,
            gamma=gamma,
            gae_lambda=gae_lambda,
            valid=rollout.valid,
        )
        return Estimates(advantage.flatten(), value_target.flatten())

    @torch.no_grad()
    def estimator(policy: ActorCritic) -> Estimates:
        return estimates(policy, policy.value(observation).view_as(rollout.reward))

    batch = Batch(
        observation=observation,
        action=rollout.action.flatten(0, 1),
        behaviour=behaviour,
        **estimates(policy, value)._asdict(),
        valid=rollout.valid.flatten(),
    )
    judged = (value.flatten(), batch.value_target, batch.valid)
    explained = explained_variance(*map(ranks.gather, judged))
    return Prepared(batch, float(explained), estimator)


def _unseen(rollout: Rollout, policy: ActorCritic) -> Tensor:
    """True next observations that no row begins with, of the last K steps, (K * N, ...), normalised.

    Row t + 1 mostly begins with row t's next observation: K is then 1, else T.
    """
    following, same = rollout.next_observation[:-1], rollout.observation[1:]
    known = following.data_ptr() == same.data_ptr() or bool((following == same).all())
    first = len(same) if known else 0
    return policy.normalize(rollout.next_observation[first:].flatten(0, 1))


def _next_values(policy: ActorCritic, value: Tensor, unseen: Tensor) -> Tensor:
    """V(s_{t+1}) of the true next observations, (T, N)."""
    last = policy.value(unseen).view(-1, value.shape[1])
    return torch.cat([value[1 : len(value) - len(last) + 1], last])
