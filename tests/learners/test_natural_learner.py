import copy
import math
from typing import Any

import pytest
import torch
from dense_natural_step import Mask, dense_natural_step, family, plain_critic_fit
from torch import Tensor, distributions
from update_examples import (
    BOX,
    DISCRETE,
    NATURAL,
    actor_size,
    make_batch,
    make_config_for,
    make_natural_learner,
    make_policy,
    parameters_of,
    relative_difference,
)

from rlkit_es.core.minibatches import shuffled_minibatches
from rlkit_es.errors import NonFiniteError
from rlkit_es.learners.compilation import missing_compiler
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.natural_learner import NaturalLearner
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.types import ActionSpec, Batch

INF, NAN = math.inf, math.nan
ACTIONS = pytest.mark.parametrize("action", [BOX, DISCRETE], ids=["box", "discrete"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# A critic that takes one step, where it is not what is tested.
QUICK: dict[str, Any] = {"minibatch_size": 256, "critic_epochs": 1}
MASKS = ["ratio_within", "ratio_below", "ratio_above", "ratio_log_symmetric", "kl_below", "kl_within"]


def updated(
    algo: str, batch: Batch | None = None, seed: int = 0, action: ActionSpec = BOX, **changes: Any
) -> tuple[NaturalLearner, dict[str, float]]:
    """A fresh learner after one update, and the update's metrics."""
    policy, config = make_policy(action), make_config_for(algo, **(QUICK | changes))
    batch = make_batch(policy) if batch is None else batch
    learner = make_natural_learner(algo, config, policy, seed)
    return learner, learner.update(batch, config.learning_rate)


def everything(learner: NaturalLearner) -> list[Tensor]:
    return [learner.parameters, *learner.critic.state]


def assert_equal(one: NaturalLearner, other: NaturalLearner) -> None:
    assert all(torch.equal(a, b) for a, b in zip(everything(one), everything(other), strict=True))


def assert_finite(learner: NaturalLearner, metrics: dict[str, float]) -> None:
    assert all(x.isfinite().all() for x in everything(learner))
    assert all(math.isfinite(x) for x in metrics.values())


def actor_of(policy: ActorCritic) -> Tensor:
    return parameters_of(policy)[: actor_size(policy)]


def applying(algo: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Without what only a mask gives a meaning to, for TRPO."""
    return {name: value for name, value in changes.items() if algo != "trpo" or name != "mask_value"}


# --- against a dense computation ---


def sample_kl_within(config: UpdateConfig) -> Mask:
    return lambda ratio, kl: kl < config.dropout_kl


def learn_both_ways(
    algo: str, policy: ActorCritic, changes: dict[str, Any], mask: Mask | None = None, updates: int = 3
) -> list[tuple[float, dict[str, float]]]:
    """Of each update: how far the two steps are apart, relative to their length, and our metrics."""
    limit = {"dropout_kl": changes.get("max_kl", 0.02)}  # drops some, and not all
    config = make_config_for(algo, cg_iterations=70, **QUICK, **(limit | changes))  # more than parameters
    mask = sample_kl_within(config) if algo == "sd_trpo" and mask is None else mask
    learner = make_natural_learner(algo, config, policy)
    seen = []
    for i in range(updates):
        batch, before = make_batch(policy, seed=i), actor_of(policy).double()
        precise = Batch(*(x.double() if x.is_floating_point() else x for x in batch))
        expected = dense_natural_step(copy.deepcopy(policy).double(), precise, config, mask)
        metrics = learner.update(batch, config.learning_rate)
        assert metrics["policy_steps"] == float(expected.accepted) == 1 - metrics["line_search_failed"]
        assert metrics["line_search_trials"] == expected.trials
        assert metrics["kept_fraction"] == pytest.approx(expected.keep.double().mean().item())
        assert metrics["policy_loss"] == pytest.approx(-expected.surrogate.item(), rel=1e-4, abs=1e-5)
        step, expected_step = actor_of(policy).double() - before, expected.parameters - before
        distance = (step - expected_step).norm() / expected_step.norm().clamp(min=1e-12)
        seen.append((float(distance), metrics))
    return seen


@ACTIONS
@DTYPES
@pytest.mark.parametrize("algo", NATURAL)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cg_damping": 0.01, "max_kl": 0.1, "line_search_shrink": 0.5},
        {"max_kl": 5.0},
        {"max_kl": 5.0, "line_search_steps": 1},
        {"mask_value": True, "max_kl": 0.05},
    ],
)
def test_the_same_policy_as_with_the_dense_fisher_matrix(
    action: ActionSpec, dtype: torch.dtype, algo: str, changes: dict[str, Any]
) -> None:
    policy, changes = make_policy(action, hidden=(5,)).to(dtype), applying(algo, changes)
    for distance, metrics in learn_both_ways(algo, policy, changes):
        assert distance < (1e-4 if dtype == torch.float32 else 1e-7)
        assert (0 < metrics["kept_fraction"] < 1) or algo == "trpo" or changes.get("max_kl") == 5.0


def test_the_dense_computation_was_followed_through_backtracking_and_refusal() -> None:
    searched = learn_both_ways("sd_trpo", make_policy(hidden=(5,)), {"max_kl": 5.0})
    refused = learn_both_ways("sd_trpo", make_policy(hidden=(5,)), {"max_kl": 5.0, "line_search_steps": 1})
    assert max(metrics["line_search_trials"] for _, metrics in searched) > 2
    assert {metrics["policy_steps"] for _, metrics in refused} == {0.0, 1.0}


@pytest.mark.parametrize("mask", MASKS)
@ACTIONS
def test_every_mask_works_at_the_trial_step(mask: str, action: ActionSpec) -> None:
    delta, limits = 0.1, {"dropout_threshold": 0.1, "dropout_rate": 0.9, "dropout_kl": 0.015}
    changes = {"mask": mask, "mask_at": "trial", **limits}
    plain: dict[str, Mask] = {
        "ratio_within": lambda r, kl: (r - 1).abs() < delta,
        "ratio_below": lambda r, kl: r - 1 < delta,
        "ratio_above": lambda r, kl: 1 - r < delta,
        "ratio_log_symmetric": lambda r, kl: (r > 1 / (1 + delta)) & (r < 1 + delta),
        "kl_below": lambda r, kl: kl < 0.9 * 0.02,
        "kl_within": lambda r, kl: kl < 0.015,
    }
    policy = make_policy(action, hidden=(5,)).double()
    for distance, metrics in learn_both_ways("trpo", policy, changes, plain[mask]):
        assert distance < 1e-7
        assert 0 < metrics["kept_fraction"] < 1


# --- what is promised of a step ---


def mean_kl(policy: ActorCritic, batch: Batch) -> float:
    rows = batch.valid
    old = family(policy, batch.behaviour[rows])
    new = family(policy, policy.actor(batch.observation[rows]))
    return float(distributions.kl_divergence(old, new).mean())


def surrogate(policy: ActorCritic, batch: Batch) -> float:
    rows = batch.valid
    new = family(policy, policy.actor(batch.observation[rows])).log_prob(batch.action[rows])
    old = family(policy, batch.behaviour[rows]).log_prob(batch.action[rows])
    a = batch.advantage[rows]
    return float(((new - old).exp() * (a - a.mean())).mean())


@ACTIONS
@pytest.mark.parametrize("algo", NATURAL)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cg_damping": 0.0},
        {"max_kl": 1.0, "cg_iterations": 2},
        {"fisher_fraction": 0.05},
        {"max_kl": 1e-4},
    ],
)
def test_an_accepted_step_stays_within_the_kl_and_makes_the_surrogate_better(
    action: ActionSpec, algo: str, changes: dict[str, Any]
) -> None:
    policy, config = make_policy(action), make_config_for(algo, **QUICK, **changes)
    learner = make_natural_learner(algo, config, policy)
    accepted = 0
    for i in range(3):
        batch = make_batch(policy, seed=i)
        before = surrogate(policy, batch)
        metrics = learner.update(batch, config.learning_rate)
        assert mean_kl(policy, batch) <= config.max_kl * (1 + 1e-5) + 1e-6
        if algo == "trpo" and metrics["policy_steps"]:
            assert surrogate(policy, batch) > before
        accepted += int(metrics["policy_steps"])
    assert accepted >= 2


def test_a_long_enough_step_uses_most_of_the_trust_region() -> None:
    policy, config = make_policy(), make_config_for("trpo", cg_damping=1e-3)
    batch = make_batch(policy)
    make_natural_learner("trpo", config, policy).update(batch, config.learning_rate)
    assert mean_kl(policy, batch) > 0.5 * config.max_kl


@pytest.mark.parametrize("algo", NATURAL)
@pytest.mark.parametrize(
    ("advantage", "changes"),
    [
        (0.0, {}),
        (0.1, {}),
        (-1000.1, {}),
        (None, {"max_kl": 1e6, "line_search_steps": 1, "dropout_kl": INF}),
    ],
)
def test_where_the_search_fails_the_policy_is_bitwise_what_it_was_and_the_critic_is_fitted(
    algo: str, advantage: float | None, changes: dict[str, Any]
) -> None:
    policy, config = make_policy(), make_config_for(algo, **changes)
    batch, before, actor = make_batch(policy), parameters_of(policy), actor_size(policy)
    if advantage is not None:
        batch = batch._replace(advantage=torch.full_like(batch.advantage, advantage))
    error = (policy.critic(batch.observation) - batch.value_target)[batch.valid].square().mean()
    learner = make_natural_learner(algo, config, policy)
    metrics = learner.update(batch, config.learning_rate)
    assert metrics["line_search_failed"] == 1
    assert metrics["policy_steps"] == 0
    assert metrics["line_search_trials"] == config.line_search_steps
    assert torch.equal(actor_of(policy), before[:actor])
    assert metrics["critic_steps"] == 3 * -(-int(batch.valid.sum()) // 16)
    assert (policy.critic(batch.observation) - batch.value_target)[batch.valid].square().mean() < error
    assert_finite(learner, metrics)


@ACTIONS
@pytest.mark.parametrize("algo", NATURAL)
def test_the_modules_see_what_the_learner_holds(action: ActionSpec, algo: str) -> None:
    policy, config = make_policy(action), make_config_for(algo, **QUICK)
    before, batch = parameters_of(policy), make_batch(policy)
    learner = make_natural_learner(algo, config, policy)
    assert torch.equal(parameters_of(policy), before)  # taking over changes nothing
    output = policy.actor(batch.observation)
    for _ in range(2):
        learner.update(batch, 1e-3)
        held = torch.cat([learner.parameters, learner.critic.state.parameters])
        assert torch.equal(parameters_of(policy), held)
    assert not torch.equal(policy.actor(batch.observation), output)


def test_metrics_count_what_happened() -> None:
    batch = make_batch(make_policy())
    _, metrics = updated("trpo", batch, critic_epochs=3, minibatch_size=16)
    assert metrics["policy_steps"] == metrics["line_search_trials"] == metrics["kept_fraction"] == 1
    assert metrics["critic_steps"] == 3 * -(-int(batch.valid.sum()) // 16)
    assert metrics["grad_norm"] > 0
    assert metrics["learning_rate"] == 1e-3


# --- dropping samples ---


@ACTIONS
@pytest.mark.parametrize("mask_value", [True, False])
def test_a_mask_that_drops_nothing_is_trpo_bitwise(action: ActionSpec, mask_value: bool) -> None:
    plain, metrics = updated("trpo", action=action, minibatch_size=16)
    masked, others = updated(
        "sd_trpo", action=action, dropout_kl=INF, mask_value=mask_value, minibatch_size=16
    )
    assert_equal(plain, masked)
    assert metrics == others


@pytest.mark.parametrize("mask_value", [False, True])
def test_where_everything_would_be_dropped_everything_is_used_and_the_metric_says_so(
    mask_value: bool,
) -> None:
    plain, metrics = updated("trpo")
    masked, others = updated("sd_trpo", dropout_kl=1e-12, mask_value=mask_value)
    assert_equal(plain, masked)
    assert others == {**metrics, "kept_fraction": 0.0}


@ACTIONS
def test_a_limit_drops_some_and_changes_the_step(action: ActionSpec) -> None:
    plain, _ = updated("trpo", action=action)
    masked, metrics = updated("sd_trpo", action=action)
    assert not torch.equal(plain.parameters, masked.parameters)
    assert 0 < metrics["kept_fraction"] < 1


@pytest.mark.parametrize("mask", ["kl_below", "kl_within"])
def test_a_larger_limit_keeps_more(mask: str) -> None:
    name, unit = ("dropout_rate", 1.0) if mask == "kl_below" else ("dropout_kl", 0.02)
    limits = [unit * factor for factor in (0.2, 0.5, 1.0, 2.0, 10.0)]
    kept = [updated("sd_trpo", mask=mask, **{name: limit})[1]["kept_fraction"] for limit in limits]
    assert kept == sorted(kept)
    assert kept[0] < kept[-1]


def test_ratio_minus_one_takes_the_same_step_and_reports_another_loss() -> None:
    (one, metrics), (other, others) = (
        updated("sd_trpo", surrogate=name) for name in ("ratio", "ratio_minus_one")
    )
    torch.testing.assert_close(one.parameters, other.parameters, rtol=1e-5, atol=1e-6)
    assert abs(metrics["policy_loss"] - others["policy_loss"]) > 1e-3


# --- the critic ---


@pytest.mark.parametrize("mask_value", [True, False])
def test_the_critic_is_fitted_as_by_torch_to_all_or_to_the_kept_samples(mask_value: bool) -> None:
    policy = make_policy(hidden=(5,)).double()
    batch, plain, before = make_batch(policy), copy.deepcopy(policy), parameters_of(policy)
    config = make_config_for(
        "sd_trpo", cg_iterations=100, mask_value=mask_value, critic_learning_rate=2e-3, value_coefficient=0.7
    )
    samples = batch.valid.clone()
    if mask_value:
        samples[batch.valid] = dense_natural_step(policy, batch, config, sample_kl_within(config)).keep
        assert 0 < samples.sum() < batch.valid.sum()
    generator, minibatches = torch.Generator().manual_seed(0), []
    for _ in range(3):
        index, real, count = shuffled_minibatches(samples, config.minibatch_size, generator)
        minibatches += [rows[used] for rows, used in zip(index[:count], real[:count], strict=True)]
    losses = plain_critic_fit(plain, batch, minibatches, config)
    metrics = make_natural_learner("sd_trpo", config, policy).update(batch, config.learning_rate)
    actor = actor_size(policy)
    ours, theirs = (parameters_of(p)[actor:] - before[actor:] for p in (policy, plain))
    assert relative_difference(ours, theirs) < 1e-6
    assert metrics["critic_steps"] == len(losses)
    assert metrics["value_loss"] == pytest.approx(sum(losses) / len(losses))


def test_the_policy_does_not_depend_on_how_the_critic_is_fitted() -> None:
    one, _ = updated("trpo")
    for changes in ({"critic_epochs": 2}, {"learning_rate": 1e-4}, {"minibatch_size": 64}):
        other, _ = updated("trpo", **changes)
        assert torch.equal(one.parameters, other.parameters)
        assert not torch.equal(one.critic.state.parameters, other.critic.state.parameters)


def test_the_critics_rate_keeps_its_proportion_to_what_is_scheduled() -> None:
    policy = make_policy()
    config = make_config_for(
        "trpo", critic_learning_rate=5e-3, critic_epochs=1, minibatch_size=256, adam_epsilon=1e-12
    )
    batch, before, actor = make_batch(policy), parameters_of(policy), actor_size(policy)
    metrics = make_natural_learner("trpo", config, policy).update(batch, 1e-4)
    # The first step of Adam moves a parameter by the learning rate; the policy's config has 1e-3.
    moved = (parameters_of(policy) - before).abs()[actor:]
    assert moved.max() == pytest.approx(5e-4, rel=1e-2)
    assert metrics["learning_rate"] == 1e-4


# --- the trust region's schedule ---


@pytest.mark.parametrize("algo", NATURAL)
@pytest.mark.parametrize("remaining", [1.0, 0.5, 0.01])
def test_a_linear_trust_region_is_the_constant_one_times_what_remains(algo: str, remaining: float) -> None:
    one, other = make_policy(), make_policy()
    linear = make_config_for(algo, **QUICK, max_kl=0.04, max_kl_schedule="linear")
    constant = make_config_for(algo, **QUICK, max_kl=0.04 * remaining)
    batch = make_batch(one)
    metrics = make_natural_learner(algo, linear, one).update(batch, 1e-3, remaining)
    # Which a constant one does not look at.
    others = make_natural_learner(algo, constant, other).update(batch, 1e-3, 0.3)
    assert torch.equal(parameters_of(one), parameters_of(other))
    assert metrics == others
    assert mean_kl(one, batch) <= 0.04 * remaining * (1 + 1e-5) + 1e-6


# --- the part of the batch that the Fisher information is taken over ---


def test_a_fraction_of_the_states_changes_the_step_and_the_seed_fixes_which() -> None:
    whole, _ = updated("trpo")
    steps = [updated("trpo", seed=seed, fisher_fraction=0.3)[0].parameters for seed in (0, 0, 1)]
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], steps[2])
    assert not torch.equal(steps[0], whole.parameters)
    # With the whole batch nothing is drawn: the policy is the same for each seed.
    assert torch.equal(updated("trpo", seed=1)[0].parameters, whole.parameters)


@ACTIONS
def test_of_states_that_are_all_alike_any_fraction_is_enough(action: ActionSpec) -> None:
    policy = make_policy(action)
    batch = make_batch(policy)
    observation = batch.observation[:1].expand_as(batch.observation).contiguous()
    behaviour = policy.actor(observation).detach()
    alike = batch._replace(observation=observation, behaviour=behaviour)
    steps = []
    for fraction in (0.05, 0.4, 1.0):
        own = copy.deepcopy(policy)
        config = make_config_for("trpo", **QUICK, fisher_fraction=fraction)
        make_natural_learner("trpo", config, own).update(alike, config.learning_rate)
        steps.append(actor_of(own) - actor_of(policy))
    assert steps[0].norm() > 0
    for step in steps[1:]:
        assert (step - steps[0]).norm() < 1e-3 * steps[0].norm()


@pytest.mark.parametrize("fraction", [1e-9, 0.01, 0.999])
def test_any_fraction_takes_some_state(fraction: float) -> None:
    learner, metrics = updated("trpo", fisher_fraction=fraction)
    assert_finite(learner, metrics)


# --- NaN, padding and degenerate batches ---


@pytest.mark.parametrize("algo", NATURAL)
@pytest.mark.parametrize("garbage", [7.0, NAN])
@pytest.mark.parametrize("changes", [{}, {"fisher_fraction": 0.4, "mask_value": True}])
def test_what_invalid_rows_hold_changes_nothing(algo: str, garbage: float, changes: dict) -> None:
    clean = make_batch(make_policy())
    clean.valid[0] = False
    dirty = Batch(*(x.clone() for x in clean))
    for field in dirty[:-1]:
        field[~dirty.valid] = garbage
    changes = applying(algo, changes) | {"minibatch_size": 16}  # the last minibatch is padded
    (one, metrics), (other, others) = (updated(algo, batch, **changes) for batch in (clean, dirty))
    assert_equal(one, other)
    assert metrics == others


@pytest.mark.parametrize("algo", NATURAL)
def test_a_batch_without_a_valid_row_changes_nothing(algo: str) -> None:
    for changes in ({}, {"mask_value": True, "fisher_fraction": 0.5}):
        learner, metrics = updated(algo, make_batch(make_policy(), valid=0.0), **applying(algo, changes))
        assert_finite(learner, metrics)
        assert metrics["policy_steps"] == metrics["critic_steps"] == 0
        held = torch.cat([learner.parameters, learner.critic.state.parameters])
        assert torch.equal(held, parameters_of(make_policy()))


@pytest.mark.parametrize("algo", NATURAL)
@pytest.mark.parametrize("valid_rows", [[0], [37], [3, 199]])
def test_a_batch_with_hardly_a_valid_row(algo: str, valid_rows: list[int]) -> None:
    batch = make_batch(make_policy(), valid=0.0)
    batch.valid[valid_rows] = True
    for changes in ({}, {"fisher_fraction": 0.5}, {"advantage_normalization": "none"}):
        learner, metrics = updated(algo, batch, **changes)
        assert_finite(learner, metrics)
        assert metrics["critic_steps"] == 1


@pytest.mark.parametrize("field", ["observation", "action", "behaviour", "advantage", "value_target"])
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("algo", NATURAL)
def test_a_value_that_is_not_finite_is_refused(field: str, bad: float, algo: str) -> None:
    batch = make_batch(make_policy())
    getattr(batch, field)[batch.valid.nonzero()[3]] = bad
    message = r"^(value_loss|the gradient of the surrogate) is not finite: .*lower learning rate$"
    with pytest.raises(NonFiniteError, match=message):
        updated(algo, batch)


@pytest.mark.parametrize("algo", NATURAL)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_huge_ratios_stay_finite(algo: str, sign: float) -> None:
    batch = make_batch(make_policy())
    batch.behaviour[:, 3:] += sign * 3  # log-ratios of some hundreds one way, 9 the other
    learner, metrics = updated(algo, batch)
    assert_finite(learner, metrics)


def test_the_seed_fixes_the_update() -> None:
    first, again, other = (updated("sd_trpo", seed=s, minibatch_size=16)[0] for s in (1, 1, 2))
    assert_equal(first, again)
    assert not torch.equal(first.critic.state.parameters, other.critic.state.parameters)


@pytest.mark.parametrize("normalization", ["minibatch", "batch", "none"])
def test_the_batch_is_left_as_it_is(normalization: str) -> None:
    batch = make_batch(make_policy())
    copies = [x.clone() for x in batch]
    updated("sd_trpo", batch, mask_value=True, advantage_normalization=normalization, fisher_fraction=0.5)
    assert all(torch.equal(a, b) for a, b in zip(copies, batch, strict=True))


def test_the_whole_batch_is_the_one_minibatch_of_normalisation() -> None:
    one, other = (updated("trpo", advantage_normalization=where)[0] for where in ("minibatch", "batch"))
    assert_equal(one, other)


# --- compiled ---


@pytest.mark.skipif(missing_compiler() is not None, reason=f"nothing to compile with: {missing_compiler()}")
def test_compiled_equals_eager(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # compiled here, not found from an earlier run
    config, policy = make_config_for("sd_trpo", mask_value=True), make_policy(hidden=(8,))
    eager = make_natural_learner("sd_trpo", config, copy.deepcopy(policy))
    compiled = make_natural_learner("sd_trpo", config, policy)
    compiled.compile()
    for i in range(3):
        batch = make_batch(policy, seed=i)
        one, other = (learner.update(batch, config.learning_rate) for learner in (eager, compiled))
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    for a, b in zip(everything(compiled), everything(eager), strict=True):
        assert relative_difference(a, b) < 1e-5
    held = torch.cat([compiled.parameters, compiled.critic.state.parameters])
    assert torch.equal(parameters_of(policy), held)
