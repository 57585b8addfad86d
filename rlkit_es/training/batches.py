"""Turning a rollout into the batch of one update."""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit_es.core.gae import generalized_advantage
from rlkit_es.core.losses import explained_variance
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.normalizers import RewardScaler
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.types import Batch, Rollout


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
) -> tuple[Batch, float]:
    """Advantages, value targets and the behaviour policy's parameters, in a few large operations.

    Args:
        rollout: of the policy as it is.
        policy: left as it is.
        reward_scaler: counts the rewards; None: they are not scaled.
        gamma: discount factor.
        gae_lambda: GAE's.
        sign_rewards: take -1, 0 or 1 in place of each reward.
        ranks: whose rewards are scaled, and whose critic is judged, together.

    Returns:
        the batch, and the explained variance of the critic before its update.
    """
    observation = policy.normalize(rollout.observation).flatten(0, 1)
    if rollout.behaviour is None or rollout.value is None:
        behaviour, value = policy.evaluate(observation)
        value = value.view_as(rollout.reward)
    else:
        behaviour, value = rollout.behaviour.flatten(0, 1), rollout.value
    next_value = _next_values(rollout, policy, value)
    reward, done = rollout.reward, rollout.done
    if sign_rewards:
        reward = reward.sign()
    if reward_scaler is not None:
        reward = reward_scaler(reward, done, rollout.valid, ranks)
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
    valid = rollout.valid.flatten()
    batch = Batch(
        observation=observation,
        action=rollout.action.flatten(0, 1),
        behaviour=behaviour,
        advantage=advantage.flatten(),
        value_target=value_target.flatten(),
        valid=valid,
    )
    judged = (value.flatten(), batch.value_target, valid)
    explained = explained_variance(*map(ranks.gather, judged))
    return batch, float(explained)


def _next_values(rollout: Rollout, policy: ActorCritic, value: Tensor) -> Tensor:
    """V(s_{t+1}) of the true next observations, (T, N).

    Row t + 1 mostly begins with row t's next observation, whose value is then known already.
    """
    following, same = rollout.next_observation[:-1], rollout.observation[1:]
    known = following.data_ptr() == same.data_ptr() or bool((following == same).all())
    first = len(value) - 1 if known else 0
    unknown = policy.value(policy.normalize(rollout.next_observation[first:].flatten(0, 1)))
    return torch.cat([value[1 : first + 1], unknown.view(-1, value.shape[1])])
