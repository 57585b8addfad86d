"""When the policy stops, and what goes on after it."""

import copy
from functools import cache

import pytest
import torch
from plain_update import PlainUpdate
from update_examples import actor_size, make_batch, make_config, make_learner, make_policy

from rlkit_es.learners.config import UpdateConfig

RATE = 3e-3
EPOCHS = 3
MINIBATCHES = 12  # of an epoch, where 16 * 11 < valid <= 16 * 12


def example():
    """A policy and a batch, in float64 so that a threshold between two deviations divides them."""
    policy = make_policy().double()
    batch = make_batch(policy, size=220)
    assert 16 * (MINIBATCHES - 1) < batch.valid.sum() <= 16 * MINIBATCHES
    return policy, batch


def config_with(**changes) -> UpdateConfig:
    return make_config(**({"epochs": EPOCHS, "learning_rate": RATE} | changes))


@cache
def deviations_without_a_stop(stop_when: str) -> list[float]:
    policy, batch = example()
    never = config_with(stop_when=stop_when, deviation_threshold=float("inf"))
    return PlainUpdate("espo", policy, never).update(batch, RATE).deviations


def threshold_crossed_at(minibatch: int, stop_when: str) -> tuple[int, float]:
    """The first minibatch (from 1) from the given one on whose deviation is a new record, and a
    threshold that it alone of the minibatches so far reaches."""
    deviations = deviations_without_a_stop(stop_when)
    assert len(deviations) == EPOCHS * MINIBATCHES
    for k in range(minibatch, len(deviations) + 1):
        record = max(deviations[: k - 1])
        if deviations[k - 1] > record:
            return k, (record + deviations[k - 1]) / 2
    raise AssertionError("no record")


def update_with(watch_stop: bool = True, **changes):
    policy, batch = example()
    learner = make_learner("espo", config_with(**changes), policy, watch_stop=watch_stop)
    return learner, learner.update(batch, RATE)


@pytest.mark.parametrize("watch_stop", [True, False])
@pytest.mark.parametrize("stop_when", ["after", "before"])
@pytest.mark.parametrize("from_minibatch", [2, MINIBATCHES + 4])
@pytest.mark.parametrize("critic_epochs", [None, 1, EPOCHS, 5])
def test_the_threshold_is_crossed_at_minibatch_k(
    watch_stop: bool, stop_when: str, from_minibatch: int, critic_epochs: int | None
) -> None:
    k, threshold = threshold_crossed_at(from_minibatch, stop_when)
    _, metrics = update_with(
        watch_stop, stop_when=stop_when, deviation_threshold=threshold, critic_epochs=critic_epochs
    )
    # Measured before the step, minibatch k moves the policy no more.
    policy_steps = k if stop_when == "after" else k - 1
    assert metrics["stopped"] == 1
    assert metrics["policy_steps"] == policy_steps
    assert metrics["critic_steps"] == (policy_steps if critic_epochs is None else critic_epochs * MINIBATCHES)


@pytest.mark.parametrize("critic_epochs", [None, 2])
def test_the_stop_at_the_first_minibatch(critic_epochs: int | None) -> None:
    _, metrics = update_with(deviation_threshold=1e-9, critic_epochs=critic_epochs)
    assert metrics["stopped"] == 1
    assert metrics["policy_steps"] == 1
    assert metrics["critic_steps"] == (1 if critic_epochs is None else 2 * MINIBATCHES)


@pytest.mark.parametrize("watch_stop", [True, False])
@pytest.mark.parametrize("critic_epochs", [None, 2])
def test_a_policy_that_is_far_already_does_not_step_when_measured_before(
    watch_stop: bool, critic_epochs: int | None
) -> None:
    policy, batch = make_policy().double(), make_batch(make_policy(seed=7).double())
    config = config_with(stop_when="before", deviation_threshold=0.01, critic_epochs=critic_epochs)
    learner = make_learner("espo", config, copy.deepcopy(policy), watch_stop=watch_stop)
    metrics = learner.update(batch, RATE)
    minibatches = -(-int(batch.valid.sum()) // 16)
    assert metrics["policy_steps"] == 0
    assert metrics["critic_steps"] == (0 if critic_epochs is None else 2 * minibatches)
    start = torch.cat([p.detach().flatten() for p in policy.actor.parameters()])
    assert torch.equal(learner.state.parameters[: len(start)], start)
    assert all(torch.isfinite(torch.tensor(x)) for x in metrics.values())


def test_with_the_whole_batch_it_is_the_same_whether_measured_after_a_step_or_before_the_next() -> None:
    whole = {"minibatch_size": 220, "epochs": 12, "critic_epochs": None, "deviation_threshold": 0.1}
    (after, one), (before, other) = (update_with(stop_when=when, **whole) for when in ("after", "before"))
    assert 2 < one["policy_steps"] == other["policy_steps"] < 12
    size = actor_size(make_policy())
    torch.testing.assert_close(before.state.parameters[:size], after.state.parameters[:size])


def test_an_infinite_threshold_never_stops_and_is_the_stop_never_bitwise() -> None:
    endless, metrics = update_with(deviation_threshold=float("inf"))
    never, _ = update_with(stop="never")
    assert metrics["stopped"] == 0
    assert metrics["policy_steps"] == EPOCHS * MINIBATCHES
    assert all(torch.equal(a, b) for a, b in zip(endless.state, never.state, strict=True))


def test_the_next_update_starts_anew() -> None:
    policy, batch = example()
    learner = make_learner("espo", config_with(deviation_threshold=1e-9), policy)
    assert learner.update(batch, RATE)["policy_steps"] == 1
    assert learner.update(make_batch(policy, seed=1), RATE)["policy_steps"] == 1
    assert learner.state.steps[0] == 2


def assert_the_policy_part_is_equal_and_the_critic_part_is_not(one, other) -> None:
    actor = actor_size(make_policy())
    for a, b in zip(one.state[:3], other.state[:3], strict=True):
        assert torch.equal(a[:actor], b[:actor])
        assert not torch.equal(a[actor:], b[actor:])
    assert one.state.steps[0] == other.state.steps[0]
    assert one.state.steps[1] != other.state.steps[1]


@pytest.mark.parametrize("watch_stop", [True, False])
@pytest.mark.parametrize("stop_when", ["after", "before"])
def test_after_the_stop_the_policy_stands_still_bitwise_and_the_critic_goes_on(
    watch_stop: bool, stop_when: str
) -> None:
    k, threshold = threshold_crossed_at(MINIBATCHES + 4, stop_when)
    changes = {"stop_when": stop_when, "deviation_threshold": threshold}
    both_stop, _ = update_with(True, critic_epochs=None, **changes)
    critic_goes_on, _ = update_with(watch_stop, critic_epochs=5, **changes)
    assert both_stop.state.steps[0] == (k if stop_when == "after" else k - 1)
    assert_the_policy_part_is_equal_and_the_critic_part_is_not(both_stop, critic_goes_on)


@pytest.mark.parametrize("watch_stop", [True, False])
def test_after_its_epochs_the_policy_stands_still_bitwise_and_the_critic_goes_on(watch_stop: bool) -> None:
    short, _ = update_with(watch_stop, stop="never", critic_epochs=EPOCHS)
    long, _ = update_with(watch_stop, stop="never", critic_epochs=EPOCHS + 2)
    assert_the_policy_part_is_equal_and_the_critic_part_is_not(short, long)


def test_the_median_and_the_kl_stop_too() -> None:
    for changes in (
        {"deviation_statistic": "median", "deviation_threshold": 0.05},
        {"stop": "mean_kl", "max_kl": 0.003},
    ):
        _, metrics = update_with(**changes)
        assert metrics["stopped"] == 1
        assert 1 < metrics["policy_steps"] < EPOCHS * MINIBATCHES
