"""Which part of the gradient counts: what tells states apart, or what they have in common."""

import torch
from torch import Tensor
from update_examples import DISCRETE, make_batch, make_config, make_learner, make_policy

GOOD = 2  # the action


def gain(common_gradient: float, *, everywhere: bool) -> float:
    """What an update adds to the probability of `GOOD` in the states where it is good."""
    policy = make_policy(DISCRETE)
    batch = make_batch(policy, size=2000, valid=1.0)
    sign = torch.ones(2000) if everywhere else batch.observation[:, 0].sign()

    @torch.no_grad()
    def liking() -> Tensor:
        return (policy.actor(batch.observation)[:, GOOD].exp() * sign).mean()

    before = liking()
    batch = batch._replace(advantage=sign * (batch.action == GOOD))
    config = make_config(minibatch_size=250, common_gradient=common_gradient, learning_rate=1e-3)
    make_learner("ppo", config, policy).update(batch, 1e-3)
    return float(liking() - before)


def test_what_is_good_in_some_states_alone_is_learned_whatever_counts() -> None:
    assert gain(0.0, everywhere=False) > 0.8 * gain(1.0, everywhere=False) > 0.005


def test_what_is_good_in_all_states_is_learned_only_where_the_common_gradient_counts() -> None:
    assert gain(1.0, everywhere=True) > 0.02
    assert gain(0.0, everywhere=True) < 0.3 * gain(1.0, everywhere=True)
