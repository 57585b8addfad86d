"""How far an update moved the policy, measured over the whole batch."""

from __future__ import annotations

import torch

from rlkit_es.core.losses import masked_mean
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.types import Batch


@torch.no_grad()
def policy_shift(policy: ActorCritic, batch: Batch) -> dict[str, float]:
    """Means over the valid samples of ``batch``, for the policy as it is now.

    Returns:
        ``ratio_deviation`` E|r - 1|; ``approx_kl`` KL(old || new) in nats, summed over action
        dimensions (exact for each state, a sample mean over states); ``entropy`` in nats.
    """
    new = policy.actor(batch.observation)
    stats = policy_stats(policy.distribution, new, batch.behaviour, batch.action)
    return {
        "ratio_deviation": float(masked_mean((stats.ratio - 1).abs(), batch.valid)),
        "approx_kl": float(masked_mean(stats.kl, batch.valid)),
        "entropy": float(masked_mean(policy.distribution.entropy(new), batch.valid)),
    }
