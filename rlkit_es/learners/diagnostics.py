"""How far an update moved the policy, and how uncertain its objective became, over the whole batch."""

from __future__ import annotations

import torch

from rlkit_es.core.losses import masked_mean, normalize
from rlkit_es.core.masks import ratio_within
from rlkit_es.core.variance import surrogate_variance, surrogate_variance_bound
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.types import Batch, PolicyStats


@torch.no_grad()
def policy_shift(
    policy: ActorCritic, batch: Batch, dropout_threshold: float, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Of the valid samples of ``batch``, for the policy as it is now.

    Args:
        policy: after the update.
        batch: what the update was made with.
        dropout_threshold: delta, of the variances within it, whether or not the recipe drops samples.
        ranks: whose samples are looked at together.

    Returns:
        ``ratio_deviation`` E|r - 1|, ``ratio_bias`` E[r] - 1 (0 but for sampling error, as long as the
        batch says anything of the policy), ``ratio_min`` and ``ratio_max`` (NaN without a valid
        sample); ``approx_kl`` KL(old || new) in nats, summed over action dimensions (exact for each
        state, a sample mean over states); ``entropy`` in nats; with A normalised over the batch,
        ``surrogate_variance`` Var(r A) of all samples, ``surrogate_variance_within`` of those with
        |r - 1| < delta, and the ``surrogate_variance_bound`` that this implies.
    """
    new = policy.actor(batch.observation)
    own_stats = policy_stats(policy.distribution, new, batch.behaviour, batch.action)
    stats = PolicyStats(*map(ranks.gather, own_stats))
    entropy, valid = ranks.gather(policy.distribution.entropy(new)), ranks.gather(batch.valid)
    ratio, advantage = stats.ratio, normalize(ranks.gather(batch.advantage), valid)
    within = ratio_within(stats, advantage, dropout_threshold) & valid
    measured = {
        "ratio_deviation": masked_mean((ratio - 1).abs(), valid),
        "ratio_bias": masked_mean(ratio - 1, valid),
        "ratio_min": torch.where(valid.any(), torch.where(valid, ratio, torch.inf).amin(), torch.nan),
        "ratio_max": torch.where(valid.any(), torch.where(valid, ratio, -torch.inf).amax(), torch.nan),
        "approx_kl": masked_mean(stats.kl, valid),
        "entropy": masked_mean(entropy, valid),
        "surrogate_variance": surrogate_variance(stats, advantage, valid),
        "surrogate_variance_within": surrogate_variance(stats, advantage, within),
        "surrogate_variance_bound": surrogate_variance_bound(advantage, within, dropout_threshold),
    }
    return dict(zip(measured, torch.stack([*measured.values()]).tolist(), strict=True))  # asked for at once
