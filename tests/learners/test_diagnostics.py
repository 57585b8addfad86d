import pytest
import torch
from torch import distributions
from update_examples import DISCRETE, make_batch, make_policy

from rlkit_es.learners.diagnostics import policy_shift


def test_a_policy_that_did_not_move_has_not_shifted() -> None:
    policy = make_policy()
    shift = policy_shift(policy, make_batch(policy))
    assert shift["ratio_deviation"] == pytest.approx(0, abs=1e-6)
    assert shift["approx_kl"] == pytest.approx(0, abs=1e-6)


@torch.no_grad()
def test_against_torch_distributions_over_the_valid_samples() -> None:
    policy = make_policy(DISCRETE)
    batch = make_batch(make_policy(DISCRETE, seed=3))
    garbage = torch.full_like(batch.observation, torch.nan)
    batch = batch._replace(observation=torch.where(batch.valid[:, None], batch.observation, garbage))
    rows = batch.valid
    new = distributions.Categorical(logits=policy.actor(batch.observation[rows]))
    old = distributions.Categorical(logits=batch.behaviour[rows])
    ratio = (new.log_prob(batch.action[rows]) - old.log_prob(batch.action[rows])).exp()
    shift = policy_shift(policy, batch)
    assert shift["ratio_deviation"] == pytest.approx((ratio - 1).abs().mean().item(), rel=1e-5)
    assert shift["approx_kl"] == pytest.approx(distributions.kl_divergence(old, new).mean().item(), rel=1e-5)
    assert shift["entropy"] == pytest.approx(new.entropy().mean().item(), rel=1e-5)
