"""The update on pictures: one encoder for actor and critic, or two."""

import copy
import math
from typing import Any

import pytest
import torch
from plain_update import PlainUpdate
from recordings import as_a_gpu_would
from torch import Tensor, nn
from update_examples import (
    ADAM,
    BOX,
    DISCRETE,
    NATURAL,
    make_config_for,
    make_learner,
    make_natural_learner,
    parameters_of,
    relative_difference,
    watched_steps,
)

from rlkit_es.errors import UserError
from rlkit_es.learners.adam import AdamState, Parts, adam, fused_adam, init_state
from rlkit_es.learners.adam_learner import AdamLearner
from rlkit_es.learners.compilation import should_compile
from rlkit_es.learners.diagnostics import policy_shift
from rlkit_es.learners.learner import make_learner as make_any_learner
from rlkit_es.learners.loops import RecordedLoop
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.types import ActionSpec, Batch, ObservationSpec

SHAPE = (2, 36, 36)
SIZE, MINIBATCH = 60, 16
RATE = 1e-3
INF = math.inf

actions = pytest.mark.parametrize("action", [BOX, DISCRETE], ids=["box", "discrete"])
shared_or_not = pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])


def make_policy(
    action: ActionSpec = DISCRETE, *, shared: bool = True, precision: Any = "float32", hidden: Any = ()
) -> ActorCritic:
    generator = torch.Generator().manual_seed(0)
    policy = ActorCritic(
        ObservationSpec(SHAPE),
        action,
        hidden_sizes=hidden,
        critic_hidden_sizes=hidden,
        activation="tanh",
        log_std_init=-0.5,
        observation_clip=10.0,
        normalize_observations=False,
        scale_actions=False,
        share_encoder=shared,
        precision=precision,
        generator=generator,
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return policy


@torch.no_grad()
def make_batch(policy: ActorCritic, seed: int = 0, size: int = SIZE, valid: float = 0.85) -> Batch:
    """What ``policy`` did; bright pictures are worth more, and good actions have something in common."""
    g = torch.Generator().manual_seed(1000 + seed)
    dtype = next(policy.parameters()).dtype
    brightness = torch.rand(size, generator=g)
    picture = 256 * brightness.view(-1, 1, 1, 1) * torch.rand(size, *SHAPE, generator=g)
    observation = picture.to(torch.uint8)
    behaviour = policy.actor(observation)
    action = policy.distribution.sample(behaviour, policy.distribution.noise((size,), g).to(dtype))
    liked = action.double() if policy.action.discrete else action.sum(-1)
    noise = torch.randn(2, size, generator=g)
    return Batch(
        observation=observation,
        action=action,
        behaviour=behaviour,
        advantage=(liked + brightness + noise[0]).to(dtype),
        value_target=(3 * brightness + 0.1 * noise[1]).to(dtype),
        valid=torch.rand(size, generator=g) < valid,
    )


def minibatches(batch: Batch) -> int:
    return -(-int(batch.valid.sum()) // MINIBATCH)


def settings_for(**changes: Any) -> dict[str, Any]:
    return {"learning_rate": RATE, "minibatch_size": MINIBATCH} | changes


def updated(
    algo: str = "espo",
    policy: ActorCritic | None = None,
    batch: Batch | None = None,
    *,
    watch_stop: bool = True,
    **changes: Any,
) -> tuple[AdamLearner, dict[str, float]]:
    """A fresh learner after one update, and the update's metrics."""
    policy = make_policy() if policy is None else policy
    batch = make_batch(policy) if batch is None else batch
    config = make_config_for(algo, **settings_for(**changes))
    learner = make_learner(algo, config, policy, watch_stop=watch_stop)
    return learner, learner.update(batch, config.learning_rate)


def parts(learner: AdamLearner) -> tuple[list[Tensor], list[Tensor]]:
    """What the policy is made of, moments and count included, and what the critic is."""
    size = learner._step.actor.size
    policy = [vector[:size] for vector in learner.state[:3]] + [learner.state.steps[:1]]
    critic = [vector[size:] for vector in learner.state[:3]] + [learner.state.steps[1:]]
    return policy, critic


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- Adam by torch's own kernel ---


@pytest.mark.parametrize("sizes", [Parts(0, 1, 999), Parts(6, 694, 300), Parts(1, 0, 999), Parts(1, 998, 1)])
@pytest.mark.parametrize("scale", [1.0, 0.03])
def test_the_fused_kernel_is_adam(sizes: Parts, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    state = fused_state = init_state(torch.randn(1000, generator=generator))
    rates = torch.tensor([1e-2, 1e-3, 3e-3])
    kinds = [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    for active in [*kinds, *reversed(kinds), *kinds]:
        gradient = torch.randn(1000, generator=generator)
        arguments = torch.tensor(scale), rates, torch.tensor(active), sizes, 1e-5
        before = AdamState(*(x.clone() for x in fused_state))
        state = adam(state, gradient.clone(), *arguments)
        after = fused_adam(fused_state, gradient.clone(), *arguments)
        assert equal([*fused_state], [*before])  # what it was given stays as it was
        assert torch.equal(after.steps, state.steps)
        for field, expected in zip(after[:3], state[:3], strict=True):
            assert relative_difference(field, expected) < 1e-6
        for part, on in enumerate(active):
            rows = slice(sizes.policy) if part == 0 else slice(sizes.policy, None)
            unchanged = [torch.equal(x[rows], y[rows]) for x, y in zip(after[:3], before[:3], strict=True)]
            assert unchanged == [not on] * 3
            assert after.steps[part] == before.steps[part] + on
        fused_state = after
    assert state.steps.tolist() == [6, 6]


def test_the_fused_kernel_is_that_of_torch_on_the_critic_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(50, generator=generator))
    state = init_state(parameter.detach().clone())
    optimizer = torch.optim.Adam([parameter], lr=1e-3, eps=1e-5, foreach=False)
    for _ in range(5):
        gradient = torch.randn(50, generator=generator)
        parameter.grad = 0.5 * gradient
        optimizer.step()
        rates, active = torch.full((3,), 1e-3), torch.tensor([0.0, 1.0])
        state = fused_adam(state, gradient, torch.tensor(0.5), rates, active, Parts(0, 0, 50), 1e-5)
    torch.testing.assert_close(state.parameters, parameter.detach(), rtol=1e-6, atol=1e-7)
    assert state.steps.tolist() == [0, 5]


def test_a_part_that_stays_is_not_touched_by_a_gradient_that_is_not_finite() -> None:
    state = init_state(torch.ones(10))
    gradient = torch.tensor([1.0] * 6 + [math.nan] * 4)
    after = fused_adam(
        state, gradient, torch.ones(()), torch.ones(3), torch.tensor([1.0, 0.0]), Parts(0, 6, 4), 1e-5
    )
    assert all(torch.equal(x[6:], y[6:]) for x, y in zip(after[:3], state[:3], strict=True))
    assert after.parameters[:6].isfinite().all()


# --- against torch.optim.Adam on the modules ---

ESPO = {"deviation_threshold": 0.05, "epochs": 4, "critic_epochs": 4}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ppo", {}),
    ("ppo", {"entropy_coefficient": 0.01, "value_coefficient": 1.3, "max_grad_norm": 0.1}),
    ("ppo", {"critic_learning_rate": 3e-3, "max_grad_norm": INF}),
    ("ppo", {"epochs": 2, "critic_epochs": 4}),
    ("ppo", {"epochs": 4, "critic_epochs": 2}),
    ("espo", ESPO),
    ("espo", ESPO | {"critic_epochs": None}),
    ("espo", ESPO | {"stop_when": "before"}),
    ("espo", ESPO | {"critic_epochs": 1}),
    ("sd_espo", ESPO | {"dropout_threshold": 0.04}),
    ("sd_ppo", {"dropout_threshold": 0.05, "mask_value": True}),
    ("spo", {"clip_range": 0.05}),
    ("r2vpo", {"constraint_limit": 0.001, "dual_learning_rate": 2.0}),
    ("espo", ESPO | {"common_gradient": 0.1, "deviation_threshold": 0.02}),
]


def learn_both_ways(
    algo: str, changes: dict[str, Any], policy: ActorCritic, updates: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters before, after AdamLearner, and after the plain update; the batches are the same."""
    config = make_config_for(algo, **settings_for(**changes))
    plain, before = PlainUpdate(algo, copy.deepcopy(policy), config), parameters_of(policy)
    learner = make_learner(algo, config, policy)
    for i in range(updates):
        batch = make_batch(plain.policy, seed=i)
        metrics, counts = learner.update(batch, RATE), plain.update(batch, RATE)
        assert metrics["policy_steps"] == counts.policy_steps
        assert metrics["critic_steps"] == counts.critic_steps
        assert metrics["stopped"] == counts.stopped == (algo in ("espo", "sd_espo"))
    return before, parameters_of(policy), parameters_of(plain.policy)


@pytest.mark.parametrize(
    ("algo", "changes", "shared"),
    [*((*case, True) for case in CASES), *((*CASES[i], False) for i in (1, 5, 10, 13))],
)
def test_the_update_is_one_loss_through_a_shared_encoder(
    algo: str, changes: dict[str, Any], shared: bool
) -> None:
    before, ours, plain = learn_both_ways(algo, changes, make_policy(shared=shared))
    assert relative_difference(ours, plain) < 1e-5
    assert (ours - before).norm() > 100 * (ours - plain).norm()


@pytest.mark.parametrize(("algo", "changes"), [CASES[1], CASES[5], CASES[13]])
def test_of_continuous_actions_too(algo: str, changes: dict[str, Any]) -> None:
    before, ours, plain = learn_both_ways(algo, changes, make_policy(BOX, hidden=(12,)))
    assert relative_difference(ours, plain) < 1e-5
    assert (ours - before).norm() > 100 * (ours - plain).norm()


def test_what_the_critic_learns_moves_a_shared_encoder_and_no_other() -> None:
    moved = {}
    for shared in (True, False):
        policy = make_policy(shared=shared)
        batch, before = make_batch(policy), copy.deepcopy(policy)
        batch = batch._replace(advantage=torch.zeros_like(batch.advantage))
        updated("ppo", policy, batch, epochs=1, critic_epochs=1)
        now, then = (nn.utils.parameters_to_vector(p.actor.parameters()) for p in (policy, before))
        moved[shared] = float((now - then).detach().norm())
    assert moved[True] > 10 * moved[False]


# --- the stop ---


@shared_or_not
@pytest.mark.parametrize("watch_stop", [True, False])
def test_after_the_stop_encoder_and_actor_stand_still_bitwise_and_the_critics_head_goes_on(
    shared: bool, watch_stop: bool
) -> None:
    batch = make_batch(make_policy(shared=shared))
    changes = {"deviation_threshold": 1e-9, "epochs": 3}
    both_stop, metrics = updated(policy=make_policy(shared=shared), critic_epochs=None, **changes)
    assert metrics["stopped"] == metrics["policy_steps"] == metrics["critic_steps"] == 1
    for critic_epochs in (1, 3, 5):
        policy = make_policy(shared=shared)
        goes_on, metrics = updated(
            policy=policy, watch_stop=watch_stop, critic_epochs=critic_epochs, **changes
        )
        assert metrics["stopped"] == metrics["policy_steps"] == 1
        assert metrics["critic_steps"] == critic_epochs * minibatches(batch)
        (stopped_policy, stopped_critic), (policy_part, critic_part) = parts(both_stop), parts(goes_on)
        assert equal(policy_part, stopped_policy)
        assert not any(torch.equal(a, b) for a, b in zip(critic_part, stopped_critic, strict=True))
        assert torch.equal(parameters_of(policy), goes_on.state.parameters)


@pytest.mark.parametrize("critic_epochs", [None, 2])
def test_a_policy_that_is_far_already_leaves_encoder_and_actor_as_they_were(
    critic_epochs: int | None,
) -> None:
    policy = make_policy()
    batch, before = make_batch(policy), parameters_of(policy)
    batch = batch._replace(behaviour=torch.log_softmax(batch.behaviour + torch.arange(4.0), -1))
    learner, metrics = updated(
        policy=policy, batch=batch, stop_when="before", deviation_threshold=0.1, critic_epochs=critic_epochs
    )
    assert metrics["policy_steps"] == 0
    assert metrics["critic_steps"] == (0 if critic_epochs is None else 2 * minibatches(batch))
    size = learner._step.actor.size
    assert torch.equal(learner.state.parameters[:size], before[:size])
    assert torch.equal(learner.state.parameters[size:], before[size:]) == (critic_epochs is None)


@shared_or_not
@pytest.mark.parametrize(
    "changes",
    [
        {"deviation_threshold": 1e-9},
        {"deviation_threshold": 0.05},
        {"deviation_threshold": 0.05, "critic_epochs": None},
        {"deviation_threshold": 0.05, "critic_epochs": 1, "stop_when": "before"},
        {"stop": "never", "epochs": 2, "critic_epochs": 4},
    ],
    ids=str,
)
def test_leaving_the_stop_on_the_device_gives_the_same_result(shared: bool, changes: dict[str, Any]) -> None:
    config = make_config_for("espo", **settings_for(**changes))
    policies = [make_policy(shared=shared) for _ in range(2)]
    watching, blind = (
        make_learner("espo", config, policy, watch_stop=watch)
        for policy, watch in zip(policies, (True, False), strict=True)
    )
    for i in range(2):
        batch = make_batch(policies[0], seed=i)
        one, other = (learner.update(batch, RATE) for learner in (watching, blind))
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    for a, b in zip(watching.state, blind.state, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_what_the_critic_takes_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, rows = make_policy(), []
    batch = make_batch(policy)
    policy.actor.network.encoder.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    updated(policy=policy, batch=batch, deviation_threshold=1e-9, critic_epochs=5)
    # The first minibatch before and after its step, then the whole batch for the critic.
    assert rows == [MINIBATCH, MINIBATCH, SIZE]


# --- the natural step ---


def natural(algo: str, policy: ActorCritic, batch: Batch, **changes: Any) -> dict[str, float]:
    config = make_config_for(algo, **settings_for(**changes))
    return make_natural_learner(algo, config, policy).update(batch, RATE)


def value_error(policy: ActorCritic, batch: Batch) -> float:
    with torch.no_grad():
        error = policy.value(batch.observation) - batch.value_target
    return float(error[batch.valid].square().mean())


@actions
@pytest.mark.parametrize("algo", NATURAL)
@pytest.mark.parametrize("fisher_fraction", [1.0, 0.3])
def test_a_natural_step_moves_the_policy_within_its_trust_region(
    action: ActionSpec, algo: str, fisher_fraction: float
) -> None:
    policy = make_policy(action, shared=False)
    batch, before = make_batch(policy), copy.deepcopy(policy)
    metrics = natural(algo, policy, batch, max_kl=0.02, fisher_fraction=fisher_fraction)
    assert metrics["policy_steps"] == 1
    assert 1e-4 < policy_shift(policy, batch, 0.5)["approx_kl"] <= 0.02 * (1 + 1e-4)
    for part in ("actor", "critic"):
        now, then = (dict(getattr(p, part).named_parameters()) for p in (policy, before))
        assert [name for name, x in now.items() if torch.equal(x, then[name])] == []


@pytest.mark.parametrize("algo", NATURAL)
@pytest.mark.parametrize("why", ["no advantage", "too far"])
def test_where_the_line_search_fails_the_actor_is_bitwise_what_it_was_and_the_critic_is_fitted(
    algo: str, why: str
) -> None:
    policy = make_policy(shared=False)
    batch, before = make_batch(policy), copy.deepcopy(policy)
    changes: dict[str, Any] = {"max_kl": 1e6, "line_search_steps": 1, "dropout_kl": INF}
    if why == "no advantage":
        batch, changes = batch._replace(advantage=torch.zeros_like(batch.advantage)), {}
    metrics = natural(algo, policy, batch, critic_epochs=5, **changes)
    assert (metrics["line_search_failed"], metrics["policy_steps"]) == (1, 0)
    assert equal([*policy.actor.parameters()], [*before.actor.parameters()])
    assert value_error(policy, batch) < 0.9 * value_error(before, batch)
    encoders = [list(p.critic.network.encoder.parameters()) for p in (policy, before)]
    assert not any(torch.equal(a, b) for a, b in zip(*encoders, strict=True))


# --- every recipe ---


@pytest.mark.parametrize("algo", RECIPES)
@pytest.mark.parametrize(("action", "precision"), [(BOX, "float32"), (DISCRETE, "bfloat16")])
def test_every_recipe_updates_on_pictures(algo: str, action: ActionSpec, precision: str) -> None:
    policy = make_policy(action, shared=algo in ADAM, precision=precision)
    batch, before = make_batch(policy), parameters_of(policy)
    config = make_config_for(algo, **settings_for())
    learner = make_any_learner(algo, policy, config, torch.Generator().manual_seed(0))
    metrics = learner.update(batch, RATE)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["policy_steps"] >= 1
    assert metrics["critic_steps"] == 3 * minibatches(batch)
    after = parameters_of(policy)
    assert after.dtype == torch.float32
    assert after.isfinite().all()
    assert (after != before).float().mean() > 0.5
    assert all(math.isfinite(value) for value in policy_shift(policy, batch, 0.5).values())


@shared_or_not
def test_the_same_seed_gives_the_same_bits(shared: bool) -> None:
    one, other = (updated(policy=make_policy(shared=shared))[0] for _ in range(2))
    assert equal([*one.state], [*other.state])


@shared_or_not
def test_the_critic_learns_what_pictures_are_worth(shared: bool) -> None:
    policy = make_policy(shared=shared)
    batch = make_batch(policy)
    before = value_error(policy, batch)
    updated("ppo", policy, batch, epochs=5, critic_epochs=5)
    assert value_error(policy, batch) < 0.5 * before


@actions
@shared_or_not
def test_the_ratio_is_one_on_the_batch_and_on_minibatches_of_it(action: ActionSpec, shared: bool) -> None:
    policy = make_policy(action, shared=shared)
    batch = make_batch(policy, size=300)  # evaluated in chunks, where minibatches are not
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    for size in (300, 64, MINIBATCH, 1):
        for index in order.split(size)[:20]:
            new = policy.actor(batch.observation[index])
            stats = policy_stats(policy.distribution, new, batch.behaviour[index], batch.action[index])
            assert (stats.ratio - 1).abs().max() < 1e-5
            assert stats.kl.abs().max() < 1e-5
    # A policy that does not move is never found to deviate, with gradients or without.
    for stop_when in ("before", "after"):
        config = make_config_for(
            "espo", **settings_for(deviation_threshold=1e-5, stop_when=stop_when, epochs=1)
        )
        assert make_learner("espo", config, copy.deepcopy(policy)).update(batch, 1e-12)["stopped"] == 0


# --- compilation ---


def test_convolutions_are_not_compiled() -> None:
    cpu = torch.device("cpu")
    for mode in ("auto", "off"):
        assert not should_compile(mode, 10**9, cpu, pixels=True)[0]
    with pytest.raises(UserError, match=r"^compile is on, but [^\n]*pictures[^\n]*--compile auto$"):
        should_compile("on", 10**9, cpu, pixels=True)


@shared_or_not
@pytest.mark.parametrize("algo", ["ppo", "sd_espo", "r2vpo"])
def test_a_recorded_update_is_the_eager_one_bitwise(algo: str, shared: bool) -> None:
    first = make_policy(shared=shared)
    config = make_config_for(algo)
    eager, replayed = (make_learner(algo, config, copy.deepcopy(first), watch_stop=False) for _ in range(2))
    replayed.loop_by(lambda step: RecordedLoop(step, as_a_gpu_would))
    for seed in range(2):
        batch = make_batch(first, seed=seed)
        assert eager.update(batch, RATE) == replayed.update(batch, RATE)
        for one, other in zip(eager.state, replayed.state, strict=True):
            assert torch.equal(one, other)


@shared_or_not
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_step_asks_the_host_for_anything(precision: str, shared: bool) -> None:
    policy = make_policy(shared=shared, precision=precision)
    learner = make_learner("sd_espo", make_config_for("sd_espo"), policy, watch_stop=False)
    steps = watched_steps(learner)
    learner.update(make_batch(policy), RATE)
    assert "joint" in steps
