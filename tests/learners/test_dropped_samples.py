"""Where the mask is taken, and what else it drops samples from; minibatch steps."""

import dataclasses
import math

import pytest
import torch
from plain_update import PlainUpdate
from update_examples import (
    actor_size,
    make_batch,
    make_config,
    make_learner,
    make_policy,
    parameters_of,
    relative_difference,
    updated,
)

from rlkit_es.types import Batch

ESPO = {"learning_rate": 3e-3, "deviation_threshold": 0.12}
MASKS = ["ratio_within", "ratio_below", "ratio_above", "ratio_log_symmetric", "kl_below", "kl_within"]
NOTHING_DROPPED = {"dropout_threshold": math.inf, "dropout_rate": math.inf, "dropout_kl": math.inf}


def assert_equal(one, other) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one.state, other.state, strict=True))


# --- at a trial step ---


@pytest.mark.parametrize(("base", "dropping"), [("ppo", "sd_ppo"), ("espo", "sd_espo")])
@pytest.mark.parametrize(("mask", "watch_stop"), [*((mask, True) for mask in MASKS), (MASKS[0], False)])
def test_a_trial_that_drops_nothing_is_the_base_recipe_bitwise(
    base: str, dropping: str, mask: str, watch_stop: bool
) -> None:
    # The trial moves neither the parameters nor the optimiser's moments and counts.
    settings = ESPO | {"epochs": 2, "critic_epochs": 2}
    plain, metrics = updated(base, make_config(**settings), watch_stop=watch_stop)
    trial = make_config(**settings, **NOTHING_DROPPED, mask=mask, mask_at="trial", mask_value=True)
    masked, others = updated(dropping, trial, watch_stop=watch_stop)
    assert_equal(plain, masked)
    assert metrics == others


@pytest.mark.parametrize("dropping", ["sd_ppo", "sd_espo"])
def test_where_everything_would_be_dropped_after_the_trial_everything_is_used(dropping: str) -> None:
    tiny = make_config(**ESPO, dropout_threshold=1e-9, mask_at="trial")
    base, _ = updated(dropping.removeprefix("sd_"), make_config(**ESPO))
    masked, metrics = updated(dropping, tiny)
    assert_equal(base, masked)
    assert metrics["kept_fraction"] == 0


@pytest.mark.parametrize("mask", MASKS)
def test_a_trial_drops_samples_from_the_first_step_on_and_the_current_policy_does_not(mask: str) -> None:
    kept = {}
    for mask_at in ("current", "trial"):
        config = make_config(
            minibatch_size=200,
            epochs=1,
            learning_rate=1e-2,
            mask=mask,
            mask_at=mask_at,
            dropout_threshold=0.05,
            dropout_kl=0.003,
            max_kl=0.003,
        )
        _, metrics = updated("ppo", config)
        kept[mask_at] = metrics["kept_fraction"]
    assert kept["current"] == 1
    assert 0 < kept["trial"] < 1


def test_the_trial_is_counted_as_no_step() -> None:
    learner, metrics = updated("sd_ppo", make_config(**ESPO, dropout_threshold=0.1, mask_at="trial"))
    assert learner.state.steps.tolist() == [metrics["policy_steps"], metrics["critic_steps"]]


def test_what_invalid_rows_hold_changes_no_trial() -> None:
    clean = make_batch(make_policy())
    dirty = Batch(*(x.clone() for x in clean))
    for field in dirty[:-1]:
        field[~dirty.valid] = torch.nan
    config = make_config(**ESPO, dropout_threshold=0.1, mask_at="trial", mask_value=True)
    (one, metrics), (other, others) = (updated("sd_espo", config, batch) for batch in (clean, dirty))
    assert_equal(one, other)
    assert metrics == others
    assert 0 < metrics["kept_fraction"] < 1


@pytest.mark.parametrize("algo", ["sd_ppo", "sd_espo"])
def test_a_trial_without_a_valid_row_changes_nothing(algo: str) -> None:
    batch = make_batch(make_policy(), valid=0.0)
    learner, metrics = updated(algo, make_config(mask_at="trial", mask_value=True), batch, watch_stop=False)
    assert metrics["policy_steps"] == metrics["critic_steps"] == 0
    assert torch.equal(learner.state.parameters, parameters_of(make_policy()))
    assert all(math.isfinite(x) for x in metrics.values())


# --- the critic and the advantages ---


@pytest.mark.parametrize("algo", ["sd_ppo", "sd_espo"])
@pytest.mark.parametrize("mask_value", [True, False])
@pytest.mark.parametrize("mask_at", ["current", "trial"])
def test_one_step_on_the_whole_batch_by_an_independent_computation(
    algo: str, mask_value: bool, mask_at: str
) -> None:
    changes = {"minibatch_size": 256, "epochs": 1, "critic_epochs": 1, "dropout_threshold": 0.3}
    config = make_config(**changes, learning_rate=1e-3, mask_value=mask_value, mask_at=mask_at)
    policies = [make_policy().double() for _ in range(2)]
    batch = make_batch(make_policy(seed=5).double())  # of another policy, so that some are dropped
    rate = config.learning_rate
    metrics = make_learner(algo, config, policies[0]).update(batch, rate)
    PlainUpdate(algo, policies[1], config).update(batch, rate)
    before, (ours, plain) = parameters_of(make_policy().double()), map(parameters_of, policies)
    assert 0.05 < metrics["kept_fraction"] < 0.95
    assert relative_difference(ours - before, plain - before) < 1e-6


def test_the_value_loss_is_that_of_the_kept_samples() -> None:
    policy, batch = make_policy(), make_batch(make_policy(seed=5))
    error = (policy.critic(batch.observation) - batch.value_target).detach()
    new = policy.actor(batch.observation)
    ratio = policy.distribution.log_ratio(new, batch.behaviour, batch.action).exp().detach()
    kept = batch.valid & ((ratio - 1).abs() < 0.3)
    for mask_value, samples in ((True, kept), (False, batch.valid)):
        config = make_config(
            minibatch_size=256, epochs=1, critic_epochs=1, dropout_threshold=0.3, mask_value=mask_value
        )
        _, metrics = updated("sd_ppo", config, batch)
        assert metrics["value_loss"] == pytest.approx(float(error[samples].square().mean()), rel=1e-5)


def test_with_other_advantage_statistics_only_the_critic_sees_what_is_dropped() -> None:
    """Without normalisation by the minibatch, the policy's gradient is over the same samples anyway."""
    batch, actor = make_batch(make_policy(seed=5)), actor_size(make_policy())
    for normalization in ("batch", "none"):
        learners = []
        for mask_value in (True, False):
            config = make_config(
                minibatch_size=256,
                epochs=1,
                critic_epochs=1,
                dropout_threshold=0.3,
                advantage_normalization=normalization,
                max_grad_norm=math.inf,
                mask_value=mask_value,
            )
            learners.append(updated("sd_espo", config, batch)[0].state.parameters)
        assert torch.equal(learners[0][:actor], learners[1][:actor])
        assert not torch.equal(learners[0][actor:], learners[1][actor:])


@pytest.mark.parametrize(
    "changes",
    [
        {"critic_epochs": 4},
        {"stop": "never", "critic_epochs": 5},
        {"critic_epochs": None},
    ],
)
def test_once_the_policy_stands_still_the_critic_sees_every_sample(changes: dict) -> None:
    config = make_config(**(ESPO | {"dropout_threshold": 0.05, "mask_value": True} | changes))
    # With the stop watched, the critic is fitted on its own after it, on all samples.
    (watching, metrics), (blind, others) = (
        updated("sd_espo", config, watch_stop=watch) for watch in (True, False)
    )
    assert 0 < metrics["kept_fraction"] < 1
    assert metrics == pytest.approx(others, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(watching.state.parameters, blind.state.parameters, rtol=1e-6, atol=1e-6)


def test_measured_before_the_step_the_minibatch_of_the_stop_is_the_critics_alone() -> None:
    config = make_config(
        minibatch_size=256,
        epochs=1,
        critic_epochs=1,
        stop_when="before",
        deviation_threshold=1e-6,
        dropout_threshold=0.3,
        mask_value=True,
    )
    batch = make_batch(make_policy(seed=5))
    stopped, metrics = updated("sd_espo", config, batch)
    assert metrics["policy_steps"] == 0
    assert metrics["critic_steps"] == 1
    unmasked, _ = updated("sd_espo", dataclasses.replace(config, mask_value=False), batch)
    assert torch.equal(stopped.state.parameters, unmasked.state.parameters)


# --- (r - 1) A ---


def updated_in_float64(settings: dict) -> tuple[torch.Tensor, dict[str, float]]:
    policy = make_policy().double()
    batch = make_batch(policy)
    metrics = make_learner("sd_espo", make_config(**settings), policy).update(batch, 3e-3)
    return parameters_of(policy), metrics


@pytest.mark.parametrize("changes", [{}, {"advantage_normalization": "none"}, {"mask_at": "trial"}])
def test_ratio_minus_one_moves_the_policy_as_the_ratio_does_and_reports_another_loss(changes: dict) -> None:
    settings = {"learning_rate": 3e-3, "stop": "never", "dropout_threshold": 0.1} | changes
    (one, metrics), (other, others) = (
        updated_in_float64(settings | {"surrogate": surrogate}) for surrogate in ("ratio", "ratio_minus_one")
    )
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert 0 < metrics["kept_fraction"] < 1
    assert abs(metrics["policy_loss"] - others["policy_loss"]) > 1e-3
    assert metrics["grad_norm"] == pytest.approx(others["grad_norm"])
