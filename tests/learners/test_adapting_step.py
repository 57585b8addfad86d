"""What changes from minibatch to minibatch or over training: penalty, learning rate and threshold."""

import copy
import math

import pytest
import torch
from update_examples import (
    BOX,
    DISCRETE,
    actor_size,
    make_batch,
    make_config,
    make_config_for,
    make_learner,
    make_policy,
    moved,
    parameters_of,
    relative_difference,
    updated,
)

from rlkit_es.learners.adam_learner import AdamLearner
from rlkit_es.learners.compilation import missing_compiler
from rlkit_es.learners.diagnostics import policy_shift
from rlkit_es.models.actor_critic import ActorCritic

FAST = {"learning_rate": 3e-3}


def assert_equal(one: AdamLearner, other: AdamLearner) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one.state, other.state, strict=True))


# --- the threshold's schedule ---


@pytest.mark.parametrize("remaining", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("stop_when", ["after", "before"])
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_linear_threshold_is_the_constant_one_times_what_remains(
    remaining: float, stop_when: str, statistic: str
) -> None:
    settings = FAST | {"stop_when": stop_when, "deviation_statistic": statistic}
    linear = make_config(**settings, deviation_threshold=0.25, deviation_threshold_schedule="linear")
    constant = make_config(**settings, deviation_threshold=0.25 * remaining)
    one, metrics = updated("espo", linear, remaining=remaining)
    other, others = updated("espo", constant, remaining=0.1)  # which a constant one does not look at
    assert_equal(one, other)
    assert metrics == others
    if remaining < 1:
        assert metrics["stopped"] == 1


def test_at_the_end_of_training_the_policy_hardly_moves() -> None:
    config = make_config(**FAST, deviation_threshold_schedule="linear")
    steps = [updated("espo", config, remaining=x)[1]["policy_steps"] for x in (0.0, 0.01, 0.3, 0.6, 1.0)]
    assert steps[0] == 1
    assert steps == sorted(steps)
    assert steps[-1] > 10


# --- the dual variable ---


@pytest.mark.parametrize("constraint", ["ratio_variance", "kl"])
def test_without_a_penalty_it_is_the_unclipped_recipe_that_never_stops(constraint: str) -> None:
    free = {"dual_learning_rate": 0.0, "initial_penalty": 0.0, "constraint": constraint}
    constrained, metrics = updated("r2vpo", make_config(**FAST, **free))
    plain, others = updated("espo", make_config(**FAST, stop="never"))
    torch.testing.assert_close(constrained.state.parameters, plain.state.parameters, rtol=1e-6, atol=1e-7)
    assert metrics.pop("penalty") == 0
    assert metrics == pytest.approx(others, rel=1e-5)


@pytest.mark.parametrize("constraint", ["ratio_variance", "kl"])
def test_the_penalty_rises_above_the_limit_and_falls_to_zero_far_below(constraint: str) -> None:
    for limit, rate, outcome in ((1e-4, 0.1, "rises"), (10.0, 0.1, "zero"), (10.0, 1e-4, "falls")):
        settings = {"constraint": constraint, "constraint_limit": limit, "dual_learning_rate": rate}
        _, metrics = updated("r2vpo", make_config(**FAST, **settings))
        penalty = metrics["penalty"]
        assert {"rises": penalty > 1, "zero": penalty == 0, "falls": 0 < penalty < 1}[outcome]


def test_only_recipes_with_a_constraint_report_a_penalty() -> None:
    for algo in ("ppo", "espo", "spo", "ppo_adaptive"):
        assert "penalty" not in updated(algo, make_config_for(algo, epochs=1))[1]
    assert "penalty" in updated("ppo", make_config(epochs=1, constraint="kl"))[1]


def test_the_penalty_changes_once_for_each_step_of_the_policy_and_not_after_its_stop() -> None:
    # So far below the limit the penalty falls by rate * limit, but for the small constraint itself.
    settings = {"constraint": "kl", "constraint_limit": 100.0, "dual_learning_rate": 1e-4}
    for watch_stop in (True, False):
        config = make_config(**FAST, **settings, deviation_threshold=0.12, critic_epochs=5)
        _, metrics = updated("espo", config, watch_stop=watch_stop)
        assert metrics["stopped"] == 1
        assert metrics["penalty"] == pytest.approx(1 - 0.01 * metrics["policy_steps"], abs=1e-4)


def test_the_penalty_is_carried_over_to_the_next_update() -> None:
    settings = {"constraint_limit": 0.001, "dual_learning_rate": 1.0}
    policy = make_policy()
    learner = make_learner("r2vpo", make_config(**FAST, **settings), policy)
    first = learner.update(make_batch(policy), 3e-3)["penalty"]
    assert first == learner.adaptive.penalty.item() > 1
    other_policy = copy.deepcopy(policy)
    batch = make_batch(policy, seed=1)
    second = learner.update(batch, 3e-3)["penalty"]
    anew = make_learner("r2vpo", make_config(**FAST, **settings, initial_penalty=first), other_policy)
    # But for Adam's moments and the order of the samples, a learner that starts from there.
    assert abs(anew.update(batch, 3e-3)["penalty"] - second) < 0.5 * (second - first)


def test_without_a_rate_the_penalty_is_what_it_was_at_the_start() -> None:
    _, metrics = updated("r2vpo", make_config(**FAST, dual_learning_rate=0.0, initial_penalty=0.3))
    assert metrics["penalty"] == pytest.approx(0.3)


@pytest.mark.parametrize("action", [BOX, DISCRETE], ids=["box", "discrete"])
@pytest.mark.parametrize("constraint", ["ratio_variance", "kl"])
def test_a_larger_penalty_holds_the_policy_nearer(action, constraint: str) -> None:
    shifts = []
    for penalty in (0.0, 3.0, 30.0):
        policy = make_policy(action)
        batch = make_batch(policy)
        settings = {"constraint": constraint, "initial_penalty": penalty, "dual_learning_rate": 0.0}
        make_learner("r2vpo", make_config(**FAST, **settings), policy).update(batch, 3e-3)
        shifts.append(policy_shift(policy, batch, 0.5)["approx_kl"])
    assert shifts[0] > 1.5 * shifts[1] > 3 * shifts[2]


def test_the_dual_variable_brings_the_ratio_variance_to_its_limit() -> None:
    policy = make_policy()
    config = make_config(**FAST, constraint_limit=0.02, dual_learning_rate=5.0)
    learner = make_learner("r2vpo", config, policy)
    for i in range(3):
        batch = make_batch(policy, seed=i)
        learner.update(batch, 3e-3)
    # To second order the variance of the ratio is twice the KL.
    assert 0.2 * 0.02 < 2 * policy_shift(policy, batch, 0.5)["approx_kl"] < 3 * 0.02


# --- the learning rate ---


def adaptive_learner(**changes):
    policy = make_policy()
    config = make_config_for("ppo_adaptive", **changes)
    return policy, make_learner("ppo_adaptive", config, policy), config.learning_rate


@pytest.mark.parametrize(("max_kl", "factor", "bound"), [(1e-6, 1 / 1.5, 1e-5), (1e3, 1.5, 1e-2)])
def test_the_rate_goes_down_where_the_kl_is_large_and_up_where_it_is_small(
    max_kl: float, factor: float, bound: float
) -> None:
    # Of a batch that another policy made, so that no KL is 0.
    for minibatch_size, epochs in ((50, 1), (16, 3)):
        sizes = {"minibatch_size": minibatch_size, "epochs": epochs}
        policy, learner, rate = adaptive_learner(max_kl=max_kl, learning_rate=1e-4, **sizes)
        metrics = learner.update(make_batch(moved(policy, 0.1)), rate)
        expected = 1e-4 * factor ** metrics["policy_steps"]
        expected = min(expected, bound) if factor > 1 else max(expected, bound)
        assert metrics["learning_rate"] == pytest.approx(expected, rel=1e-4)


def test_near_its_aim_the_kl_leaves_the_rate() -> None:
    policy, learner, rate = adaptive_learner(learning_rate=1e-5, epochs=1, minibatch_size=256)
    batch = make_batch(moved(policy, 0.1))
    kl = policy_shift(policy, batch, 0.5)["approx_kl"]
    for max_kl, factor in ((0.6 * kl, 1), (1.8 * kl, 1), (0.4 * kl, 1 / 1.5), (2.2 * kl, 1.5)):
        policy, learner, rate = adaptive_learner(
            learning_rate=1e-3, epochs=1, minibatch_size=256, max_kl=max_kl
        )
        assert learner.update(batch, rate)["learning_rate"] == pytest.approx(1e-3 * factor)


def test_the_rate_is_carried_over_and_is_the_critics_too() -> None:
    changes = {"max_kl": 1e3, "learning_rate": 1e-4, "epochs": 1, "minibatch_size": 256, "critic_epochs": 2}
    policy, learner, rate = adaptive_learner(**changes, adam_epsilon=1e-12)
    batch = make_batch(moved(policy, 0.1))
    rates, before, actor = [], parameters_of(policy), actor_size(policy)
    rates.append(learner.update(batch, rate)["learning_rate"])
    change = (parameters_of(policy) - before).abs()
    # The first step of Adam moves a parameter by the learning rate; the critic takes two.
    assert change[:actor].max() == pytest.approx(1.5e-4, rel=1e-2)
    assert change[actor:].max() == pytest.approx(3e-4, rel=5e-2)
    rates.append(learner.update(batch, rate)["learning_rate"])
    assert rates == pytest.approx([1.5e-4, 2.25e-4])
    assert learner.adaptive.rate_scale.item() == pytest.approx(2.25)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_other_schedules_leave_the_rate_of_the_update(schedule: str) -> None:
    learner, metrics = updated("ppo", make_config(learning_rate_schedule=schedule, max_kl=1e-9))
    assert metrics["learning_rate"] == learner.config.learning_rate
    assert learner.adaptive.rate_scale == 1


@pytest.mark.parametrize("watch_stop", [True, False])
def test_after_the_stop_the_rate_stays(watch_stop: bool) -> None:
    config = make_config(
        learning_rate=1e-4,
        learning_rate_schedule="adaptive_kl",
        max_kl=1e3,
        deviation_threshold=1e-9,
        critic_epochs=5,
    )
    batch = make_batch(moved(make_policy(), 0.1))
    _, metrics = updated("espo", config, batch, watch_stop=watch_stop)
    assert metrics["policy_steps"] == 1
    assert metrics["critic_steps"] > 50
    assert metrics["learning_rate"] == pytest.approx(1.5e-4)


# --- all of it together ---

TOGETHER = {
    "learning_rate": 2e-3,
    "learning_rate_schedule": "adaptive_kl",
    "max_kl": 0.02,
    "constraint_limit": 0.03,
    "dual_learning_rate": 1.0,
    "mask": "ratio_within",
    "mask_at": "trial",
    "mask_value": True,
    "dropout_threshold": 0.15,
    "stop": "ratio_deviation",
    "deviation_threshold": 0.4,
    "deviation_threshold_schedule": "linear",
    "critic_epochs": None,
    "epochs": 4,
}


def small_policy() -> ActorCritic:
    return make_policy(hidden=(8,))


def updated_twice(one: AdamLearner, other: AdamLearner, updates: int = 4) -> list[dict[str, float]]:
    """Both learners update with the same batches; their metrics agree."""
    seen = []
    for i in range(updates):
        batch = make_batch(moved(small_policy(), 0.03, seed=i), seed=i)
        metrics, others = (learner.update(batch, 2e-3, 1 - 0.2 * i) for learner in (one, other))
        assert metrics == pytest.approx(others, rel=1e-3, abs=1e-4)
        seen.append(metrics)
    return seen


def assert_everything_happened(seen: list[dict[str, float]]) -> None:
    assert {metrics["stopped"] for metrics in seen} == {0.0, 1.0}
    assert all(0 < metrics["kept_fraction"] < 1 for metrics in seen)
    assert len({metrics["learning_rate"] for metrics in seen}) > 1
    assert len({metrics["penalty"] for metrics in seen}) == len(seen)


def test_leaving_the_stop_on_the_device_gives_the_same_with_all_of_it_together() -> None:
    learners = [
        make_learner("r2vpo", make_config(**TOGETHER), small_policy(), watch_stop=watch)
        for watch in (True, False)
    ]
    assert_everything_happened(updated_twice(*learners))
    for a, b in zip(learners[0].state, learners[1].state, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(missing_compiler() is not None, reason=f"nothing to compile with: {missing_compiler()}")
def test_compiled_equals_eager_with_all_of_it_together(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # compiled here, not found from an earlier run
    eager, compiled = (make_learner("r2vpo", make_config(**TOGETHER), small_policy()) for _ in range(2))
    compiled.compile()
    assert_everything_happened(updated_twice(eager, compiled))
    assert relative_difference(compiled.state.parameters, eager.state.parameters) < 1e-5
    assert torch.equal(compiled.state.steps, eager.state.steps)
    assert math.isclose(compiled.adaptive.penalty, eager.adaptive.penalty, rel_tol=1e-4)
