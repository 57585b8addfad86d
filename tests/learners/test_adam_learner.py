import contextlib
import copy
import math
from typing import Any

import pytest
import torch
from update_examples import (
    ADAM,
    BATCH_SIZE,
    BOX,
    DISCRETE,
    actor_size,
    make_batch,
    make_config,
    make_config_for,
    make_learner,
    make_policy,
    parameters_of,
    relative_difference,
    updated,
)

from rlkit_es.errors import CompilationError, NonFiniteError, UserError
from rlkit_es.learners.adam_learner import AdamLearner
from rlkit_es.learners.compilation import missing_compiler
from rlkit_es.learners.estimates import Estimates
from rlkit_es.learners.learner import make_learner as make_any_learner
from rlkit_es.learners.requests import LoopCall
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.types import Batch

INF, NAN = math.inf, math.nan
ESPO = {"learning_rate": 3e-3, "deviation_threshold": 0.12}


def stale_batch(seed: int = 0, distance_seed: int = 5) -> Batch:
    """What another policy than `make_policy()` did: no ratio is 1."""
    return make_batch(make_policy(seed=distance_seed), seed)


def assert_finite(learner: AdamLearner, metrics: dict[str, float]) -> None:
    assert all(x.isfinite().all() for x in learner.state)
    assert all(math.isfinite(x) for x in metrics.values())


# --- the state and the modules ---


@pytest.mark.parametrize("action", [BOX, DISCRETE], ids=["box", "discrete"])
def test_the_modules_see_what_the_state_holds(action) -> None:
    policy = make_policy(action)
    before, batch = parameters_of(policy), make_batch(policy)
    learner = make_learner("ppo", make_config(), policy)
    assert torch.equal(parameters_of(policy), before)  # taking over changes nothing
    output = policy.actor(batch.observation)
    for _ in range(2):
        learner.update(batch, 1e-3)
        assert torch.equal(parameters_of(policy), learner.state.parameters)
    assert not torch.equal(parameters_of(policy), before)
    assert not torch.equal(policy.actor(batch.observation), output)


def test_the_seed_fixes_the_update() -> None:
    first, again, other = (updated("ppo", make_config(), seed=s)[0].state for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.parameters, other.parameters)


@pytest.mark.parametrize("changes", [{"epochs": 1, "critic_epochs": 1}, ESPO | {"critic_epochs": None}])
def test_how_many_epochs_one_update_took_does_not_change_the_order_of_the_next(changes: dict) -> None:
    generators = [updated("espo", make_config(**c))[0].generator for c in ({}, changes)]
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_the_batch_is_left_as_it_is() -> None:
    batch = make_batch(make_policy())
    copies = [x.clone() for x in batch]
    updated("sd_espo", make_config(advantage_normalization="batch"), batch)
    assert all(torch.equal(a, b) for a, b in zip(copies, batch, strict=True))


def test_a_better_action_becomes_more_likely_and_the_critic_better() -> None:
    policy = make_policy()
    batch = make_batch(policy)
    likelihood = policy.distribution.log_prob(batch.behaviour, batch.action)
    error = (policy.critic(batch.observation) - batch.value_target)[batch.valid].square().mean()
    make_learner("ppo", make_config(), policy).update(batch, 3e-3)
    gain = policy.distribution.log_prob(policy.actor(batch.observation), batch.action) - likelihood
    assert (gain * batch.advantage)[batch.valid].mean() > 0
    assert (policy.critic(batch.observation) - batch.value_target)[batch.valid].square().mean() < error


# --- masks ---


@pytest.mark.parametrize(("base", "dropping"), [("ppo", "sd_ppo"), ("espo", "sd_espo")])
@pytest.mark.parametrize("watch_stop", [True, False])
def test_a_mask_that_drops_nothing_is_the_base_recipe_bitwise(base: str, dropping: str, watch_stop) -> None:
    batch = make_batch(make_policy())
    plain, _ = updated(base, make_config(**ESPO), batch, watch_stop=watch_stop)
    masked, metrics = updated(
        dropping, make_config(**ESPO, dropout_threshold=INF), batch, watch_stop=watch_stop
    )
    assert all(torch.equal(a, b) for a, b in zip(plain.state, masked.state, strict=True))
    assert metrics["kept_fraction"] == 1


@pytest.mark.parametrize(("base", "dropping"), [("ppo", "sd_ppo"), ("espo", "sd_espo")])
def test_a_small_dropout_threshold_changes_the_update(base: str, dropping: str) -> None:
    plain, _ = updated(base, make_config())
    masked, metrics = updated(dropping, make_config(dropout_threshold=0.02))
    assert not torch.equal(plain.state.parameters, masked.state.parameters)
    assert 0 < metrics["kept_fraction"] < 1


def test_where_everything_would_be_dropped_everything_is_used_and_the_metric_says_so() -> None:
    plain, _ = updated("ppo", make_config(), stale_batch())
    masked, metrics = updated("sd_ppo", make_config(dropout_threshold=1e-9), stale_batch())
    assert torch.equal(plain.state.parameters, masked.state.parameters)
    assert metrics["kept_fraction"] == 0
    assert_finite(masked, metrics)


# --- NaN, padding and degenerate batches ---


@pytest.mark.parametrize("algo", ["ppo", "sd_espo", "spo", "r2vpo", "ppo_adaptive"])
@pytest.mark.parametrize("garbage", [7.0, NAN])
def test_what_invalid_rows_hold_changes_nothing(algo: str, garbage: float) -> None:
    clean = make_batch(make_policy())
    clean.valid[0] = False  # minibatches are padded with some row: it must not matter with which
    dirty = Batch(*(x.clone() for x in clean))
    for field in dirty[:-1]:
        field[~dirty.valid] = garbage
    config = make_config_for(algo, **ESPO)
    (one, metrics), (other, others) = (updated(algo, config, batch) for batch in (clean, dirty))
    assert all(torch.equal(a, b) for a, b in zip(one.state, other.state, strict=True))
    assert metrics == others


@pytest.mark.parametrize("field", ["observation", "action", "behaviour", "advantage", "value_target"])
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize(
    ("algo", "watch_stop"),
    [("ppo", True), ("sd_espo", True), ("sd_espo", False), ("r2vpo", True), ("ppo_adaptive", True)],
)
def test_a_value_that_is_not_finite_is_refused(field: str, bad: float, algo: str, watch_stop: bool) -> None:
    batch = make_batch(make_policy())
    getattr(batch, field)[batch.valid.nonzero()[3]] = bad
    with pytest.raises(
        NonFiniteError, match=r"^(policy_loss|value_loss|grad_norm) is not finite: .*lower learning rate$"
    ):
        updated(algo, make_config_for(algo, epochs=1, critic_epochs=1), batch, watch_stop=watch_stop)


@pytest.mark.parametrize("algo", ADAM)
@pytest.mark.parametrize("normalization", ["minibatch", "batch", "none"])
def test_minibatches_of_one_sample(algo: str, normalization: str) -> None:
    config = make_config_for(
        algo, minibatch_size=1, epochs=1, critic_epochs=1, advantage_normalization=normalization
    )
    batch = make_batch(make_policy(), size=40)
    learner, metrics = updated(algo, config, batch)
    assert_finite(learner, metrics)
    assert metrics["critic_steps"] == batch.valid.sum()
    # The advantage of one sample is its own mean; a penalty pulls at the rounding of the ratio even so.
    if normalization == "minibatch" and algo != "r2vpo":
        actor = actor_size(make_policy())
        assert torch.equal(learner.state.parameters[:actor], parameters_of(make_policy())[:actor])


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, -1000.1])
@pytest.mark.parametrize("normalization", ["minibatch", "batch"])
def test_equal_advantages_say_nothing_and_the_policy_stays(constant: float, normalization: str) -> None:
    batch = make_batch(make_policy())
    batch = batch._replace(advantage=torch.full_like(batch.advantage, constant))
    config = make_config(advantage_normalization=normalization, learning_rate=1e-3)
    learner, metrics = updated("ppo", config, batch)
    assert_finite(learner, metrics)
    actor = actor_size(make_policy())
    moved = (learner.state.parameters - parameters_of(make_policy())).abs()
    assert moved[:actor].max() < 1e-3  # a single step of Adam moves that far
    assert moved[actor:].max() > 1e-2


@pytest.mark.parametrize("algo", ["ppo", "sd_espo", "r2vpo", "ppo_adaptive"])
@pytest.mark.parametrize("valid_rows", [[0], [37], [3, 199]])
def test_a_batch_with_hardly_a_valid_row(algo: str, valid_rows: list[int]) -> None:
    batch = make_batch(make_policy(), valid=0.0)
    batch.valid[valid_rows] = True
    learner, metrics = updated(algo, make_config_for(algo), batch)
    assert_finite(learner, metrics)
    assert metrics["critic_steps"] == 3


@pytest.mark.parametrize("algo", ["espo", "r2vpo", "ppo_adaptive"])
@pytest.mark.parametrize("watch_stop", [True, False])
def test_a_batch_without_a_valid_row_changes_nothing(algo: str, watch_stop: bool) -> None:
    batch = make_batch(make_policy(), valid=0.0)
    learner, metrics = updated(algo, make_config_for(algo), batch, watch_stop=watch_stop)
    assert_finite(learner, metrics)
    assert metrics["policy_steps"] == metrics["critic_steps"] == 0
    assert torch.equal(learner.state.parameters, parameters_of(make_policy()))
    assert [x.item() for x in learner.adaptive] == [1, 1]


@pytest.mark.parametrize("algo", ["ppo", "espo", "sd_ppo", "sd_espo", "spo", "ppo_adaptive"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_huge_ratios_stay_finite(algo: str, sign: float) -> None:
    batch = make_batch(make_policy())
    batch.behaviour[:, 3:] += sign * 3  # log-ratios of some hundreds one way, 9 the other
    learner, metrics = updated(algo, make_config_for(algo, deviation_threshold=INF), batch)
    assert_finite(learner, metrics)


# --- metrics ---


def test_metrics_count_what_happened() -> None:
    batch = make_batch(make_policy())
    minibatches = -(-int(batch.valid.sum()) // 16)
    _, metrics = updated("ppo", make_config(epochs=2, critic_epochs=4), batch)
    assert metrics["policy_steps"] == 2 * minibatches
    assert metrics["critic_steps"] == 4 * minibatches
    assert metrics["stopped"] == 0
    assert metrics["kept_fraction"] == 1
    assert metrics["grad_norm"] > 0


def test_losses_of_a_single_step_are_those_before_it() -> None:
    policy = make_policy()
    batch = make_batch(policy)._replace(advantage=torch.linspace(-1, 3, 200))
    kept = batch.valid
    new = policy.actor(batch.observation)
    ratio = policy_stats(policy.distribution, new, batch.behaviour, batch.action).ratio
    value_loss = (policy.critic(batch.observation) - batch.value_target)[kept].square().mean()
    policy_loss = -(ratio * batch.advantage)[kept].mean()
    gradient = torch.autograd.grad(
        policy_loss + 0.7 * value_loss, [*policy.actor.parameters(), *policy.critic.parameters()]
    )
    norm = torch.cat([part.flatten() for part in gradient]).norm()
    once = {"minibatch_size": 200, "epochs": 1, "critic_epochs": 1, "value_coefficient": 0.7}
    config = make_config(**once, advantage_normalization="none", max_grad_norm=0.01)
    metrics = make_learner("espo", config, policy).update(batch, 1e-3)
    assert metrics["policy_loss"] == pytest.approx(policy_loss.item(), rel=1e-5)
    assert metrics["value_loss"] == pytest.approx(value_loss.item(), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)  # before it is bounded


def test_the_loss_of_the_critic_is_a_mean_over_its_own_steps() -> None:
    policy = make_policy()
    batch, critic = make_batch(policy), copy.deepcopy(policy.critic)
    config = make_config(minibatch_size=200, epochs=1, critic_epochs=3, max_grad_norm=math.inf)
    metrics = make_learner("ppo", config, policy).update(batch, 1e-2)
    optimizer, losses = torch.optim.Adam(critic.parameters(), lr=1e-2, eps=config.adam_epsilon), []
    for _ in range(3):
        loss = (critic(batch.observation) - batch.value_target)[batch.valid].square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["value_loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)


# --- watch_stop ---


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("ppo", {"epochs": 2, "critic_epochs": 4}),
        ("ppo", {"epochs": 4, "critic_epochs": 2}),
        ("espo", ESPO),
        ("espo", ESPO | {"critic_epochs": None}),
        ("espo", ESPO | {"critic_epochs": 1, "stop_when": "before"}),
        ("sd_espo", ESPO | {"critic_epochs": None, "stop_when": "before"}),
    ],
)
def test_leaving_the_stop_on_the_device_gives_the_same_result(algo: str, changes: dict) -> None:
    config, policies = make_config(**changes), [make_policy(), make_policy()]
    watching, blind = (
        make_learner(algo, config, policy, watch_stop=watch)
        for policy, watch in zip(policies, (True, False), strict=True)
    )
    for i in range(3):
        batch = make_batch(policies[0], seed=i)
        one, other = (learner.update(batch, config.learning_rate) for learner in (watching, blind))
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
        for name in ("policy_steps", "critic_steps", "stopped"):
            assert one[name] == other[name]
    for a, b in zip(watching.state, blind.state, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# --- compiled ---


@pytest.mark.parametrize("algo", ["espo", "trpo"])
def test_where_it_cannot_be_compiled_it_is_eager_with_a_warning_or_an_error(algo, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    config, policy = make_config_for(algo), make_policy()
    eager, required, fallen = (
        make_any_learner(algo, copy.deepcopy(policy), config, torch.Generator().manual_seed(0))
        for _ in range(3)
    )
    required.compile()
    fallen.compile(required=False)
    batch = make_batch(policy)
    with pytest.raises(CompilationError, match=r"could not be compiled \(.*\); use --compile off$"):
        required.update(batch, config.learning_rate)
    with pytest.warns(RuntimeWarning, match="could not be compiled"):
        metrics = fallen.update(batch, config.learning_rate)
    assert metrics == eager.update(batch, config.learning_rate)
    assert fallen.update(batch, config.learning_rate) == eager.update(batch, config.learning_rate)


@pytest.mark.skipif(missing_compiler() is not None, reason=f"nothing to compile with: {missing_compiler()}")
def test_compiled_equals_eager_for_two_sizes_in_one_process(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # compiled here, not found from an earlier run
    # The stop leads through the critic-only path too.
    espo = make_config(**ESPO, epochs=4, critic_epochs=4)
    ppo = make_config(minibatch_size=32, epochs=4, critic_epochs=4)
    pairs = []
    for algo, config, policy in [
        ("espo", espo, make_policy(hidden=(16, 12))),
        ("ppo", ppo, make_policy(DISCRETE, hidden=(8,))),
    ]:
        eager = make_learner(algo, config, copy.deepcopy(policy))
        compiled = make_learner(algo, config, policy)
        compiled.compile()
        pairs.append((eager, compiled, policy, config))
    steps = [0, 0]
    for i in range(5):
        for at, (eager, compiled, policy, config) in enumerate(pairs):
            batch = make_batch(policy, seed=i)
            one, other = (learner.update(batch, config.learning_rate) for learner in (eager, compiled))
            assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
            steps[at] += int(one["critic_steps"])
            assert one["stopped"] == (config is espo)
    assert min(steps) >= 100
    for eager, compiled, policy, _ in pairs:
        assert relative_difference(compiled.state.parameters, eager.state.parameters) < 1e-5
        assert torch.equal(parameters_of(policy), compiled.state.parameters)
        assert torch.equal(compiled.state.steps, eager.state.steps)


def test_the_log_std_steps_at_a_rate_of_its_own() -> None:
    policy = make_policy()
    before, network = policy.actor.log_std.detach().clone(), policy.actor.network.weight_0.detach().clone()
    rate, own = 1e-3, 2e-2
    config = make_config(
        learning_rate=rate, log_std_learning_rate=own, minibatch_size=BATCH_SIZE, epochs=1, critic_epochs=1
    )
    learner = make_learner("ppo", config, policy)
    learner.update(make_batch(policy), rate)
    # The first step of Adam is as long as its rate wherever the gradient is not nearly 0.
    torch.testing.assert_close(
        (policy.actor.log_std - before).abs(), torch.full_like(before, own), rtol=0.01, atol=0
    )
    moved_by = (policy.actor.network.weight_0 - network).abs()
    assert rate * 0.9 < moved_by.max() <= rate * 1.001


def test_actions_without_a_log_std_have_no_rate_for_it() -> None:
    results = []
    for own in (None, 1e-2):
        policy = make_policy(DISCRETE)
        config = make_config(learning_rate=1e-3, log_std_learning_rate=own)
        make_learner("ppo", config, policy).update(make_batch(policy), 1e-3)
        results.append(parameters_of(policy))
    assert torch.equal(*results)


# --- advantages anew ---


class Counting:
    """Says of a batch what nobody else would, and something else each time."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.given = batch, []

    def __call__(self, policy: ActorCritic) -> Estimates:
        self.given.append(parameters_of(policy).clone())
        times = float(len(self.given))
        return Estimates(self.batch.advantage + times, self.batch.value_target - times)


def loop_calls(algo: str, **changes: Any) -> tuple[list[LoopCall], Counting, Batch]:
    """What an update asks for."""
    changes = {"recompute_advantages": True, **changes}
    policy = make_policy()
    batch = make_batch(policy)
    learner = make_learner(algo, make_config(learning_rate=3e-3, **changes), policy)
    estimator = Counting(batch)
    requests = learner.updating(batch, 3e-3, 1.0, estimator)
    calls = []
    with contextlib.suppress(StopIteration):
        request = next(requests)
        while True:
            calls.append(request)
            request = requests.send(request.alone())
    return calls, estimator, batch


def test_estimates_are_anew_before_every_epoch_but_the_first() -> None:
    calls, estimator, batch = loop_calls("ppo", epochs=3, critic_epochs=3)
    assert len(calls) == 3
    assert len(estimator.given) == 2
    for times, call in enumerate(calls):
        torch.testing.assert_close(call.inputs.batch.advantage, batch.advantage + times)
        torch.testing.assert_close(call.inputs.batch.value_target, batch.value_target - times)
    # Each time by the critic as it had become.
    assert not torch.equal(*estimator.given)


def test_a_critic_that_goes_on_alone_learns_from_new_targets_too() -> None:
    calls, _, batch = loop_calls("espo", epochs=3, critic_epochs=4, deviation_threshold=0.01)
    assert [call.part for call in calls] == ["joint", "critic", "critic", "critic", "critic"]
    for epoch, call in zip((0, 0, 1, 2, 3), calls, strict=True):
        torch.testing.assert_close(call.inputs.batch.value_target, batch.value_target - epoch)


def test_new_advantages_are_normalised_over_the_batch_where_the_first_were() -> None:
    calls, _, batch = loop_calls("ppo", advantage_normalization="batch")
    for call in calls:
        own = call.inputs.batch.advantage[batch.valid]
        assert abs(float(own.mean())) < 1e-5
        assert float(own.std()) == pytest.approx(1, abs=0.01)


def test_advantages_stay_where_they_are_not_to_be_recomputed() -> None:
    calls, estimator, batch = loop_calls("ppo", recompute_advantages=False)
    assert not estimator.given
    assert all(torch.equal(call.inputs.batch.advantage, batch.advantage) for call in calls)


def test_advantages_cannot_be_recomputed_without_an_estimator() -> None:
    policy = make_policy()
    before = parameters_of(policy).clone()
    learner = make_learner("ppo", make_config(recompute_advantages=True), policy)
    with pytest.raises(UserError, match=r"^recompute_advantages needs the batch's estimator.*prepare_batch$"):
        learner.update(make_batch(policy), 1e-3)
    assert torch.equal(parameters_of(policy), before)
