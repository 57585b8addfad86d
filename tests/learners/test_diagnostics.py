import math

import pytest
import torch
from torch import distributions
from update_examples import DISCRETE, make_batch, make_policy, parameters_of

from rlkit_es.learners.diagnostics import policy_shift


def test_a_policy_that_did_not_move_has_not_shifted() -> None:
    policy = make_policy()
    shift = policy_shift(policy, make_batch(policy), 0.5)
    for name in ("ratio_deviation", "ratio_bias", "approx_kl"):
        assert shift[name] == pytest.approx(0, abs=1e-6)
    for name in ("ratio_min", "ratio_max"):
        assert shift[name] == pytest.approx(1, abs=1e-5)
    # Of a normalised advantage, to which r = 1 adds nothing.
    assert shift["surrogate_variance"] == pytest.approx(1, abs=1e-4)
    assert shift["surrogate_variance_within"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("delta", [0.05, 0.5, 1.5])
@pytest.mark.parametrize("distance_seed", [3, 4])
def test_within_the_threshold_the_variance_is_bounded_and_beyond_it_everything_counts(
    delta: float, distance_seed: int
) -> None:
    batch = make_batch(make_policy(seed=distance_seed))
    shift = policy_shift(make_policy(), batch, delta)
    assert 0 < shift["surrogate_variance_within"] <= shift["surrogate_variance_bound"]
    everything = policy_shift(make_policy(), batch, math.inf)
    assert everything["surrogate_variance_within"] == everything["surrogate_variance"]
    assert everything["surrogate_variance_bound"] == math.inf
    assert {name for name in shift if shift[name] != everything[name]} == {
        "surrogate_variance_within",
        "surrogate_variance_bound",
    }


def test_no_sample_has_no_smallest_and_no_largest_ratio() -> None:
    batch = make_batch(make_policy(seed=3))
    shift = policy_shift(make_policy(), batch._replace(valid=torch.zeros_like(batch.valid)), 0.5)
    assert {name for name, value in shift.items() if not math.isfinite(value)} == {"ratio_min", "ratio_max"}
    assert math.isnan(shift["ratio_min"])
    assert math.isnan(shift["ratio_max"])


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
    a = batch.advantage[rows]
    a = (a - a.mean()) / a.std(correction=0)
    near = (ratio - 1).abs() < 0.2
    assert 0 < near.sum() < len(near)
    bound = (a[near].std(correction=0) + 0.2 * a[near].square().mean().sqrt()) ** 2
    expected = {
        "ratio_deviation": (ratio - 1).abs().mean(),
        "ratio_bias": ratio.mean() - 1,
        "ratio_min": ratio.min(),
        "ratio_max": ratio.max(),
        "approx_kl": distributions.kl_divergence(old, new).mean(),
        "entropy": new.entropy().mean(),
        "surrogate_variance": (ratio * a).var(correction=0),
        "surrogate_variance_within": (ratio * a)[near].var(correction=0),
        "surrogate_variance_bound": bound,
    }
    shift = policy_shift(policy, batch, 0.2)
    assert shift == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-4)


def test_the_policy_and_the_batch_are_left_as_they_are() -> None:
    policy, batch = make_policy(), make_batch(make_policy(seed=3))
    before, copies = parameters_of(policy), [x.clone() for x in batch]
    policy_shift(policy, batch, 0.5)
    assert torch.equal(parameters_of(policy), before)
    assert all(torch.equal(a, b) for a, b in zip(copies, batch, strict=True))
