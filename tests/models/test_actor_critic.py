import math

import pytest
import torch
from policy_examples import box, make_policy, observations, wander

from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.types import ActionSpec

INF = math.inf
LEFT, RIGHT = [-0.4, -2.0, 0.1, -1.0], [0.4, 3.0, 0.7, 1.0]
SPECS = {
    "unit": box([-1.0] * 4, [1.0] * 4),
    "bounded": box(LEFT, RIGHT),
    "half_bounded": box([-INF, -2.0, 0.1, -INF], [0.4, INF, 0.7, INF]),
    "unbounded": box([-INF] * 4, [INF] * 4),
    "discrete": ActionSpec(size=5, discrete=True, start=3),
}


def fill_normalizer(policy: ActorCritic) -> None:
    assert policy.normalizer is not None
    policy.normalizer.merge(observations(300, seed=9), torch.ones(300, dtype=torch.bool))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@torch.no_grad()
def test_frozen_equals_act_and_env_action(spec: str, normalize: bool, scale: bool) -> None:
    policy = make_policy(SPECS[spec], normalize_observations=normalize, scale_actions=scale)
    wander(policy)
    if normalize:
        fill_normalizer(policy)
    observation = observations(64)
    noise = policy.distribution.noise((64,), torch.Generator().manual_seed(1))
    action, env_action = policy.frozen()(observation, noise)
    torch.testing.assert_close(action, policy.act(observation, noise), rtol=0, atol=1e-6)
    torch.testing.assert_close(env_action, policy.env_action(action), rtol=0, atol=0)
    assert action.dtype == (torch.int64 if policy.action.discrete else torch.float32)


@pytest.mark.parametrize("spec", SPECS)
@torch.no_grad()
def test_acting_without_noise_is_the_mode(spec: str) -> None:
    policy = wander(make_policy(SPECS[spec]))
    parameters = policy.actor(policy.normalize(observations(10)))
    assert torch.equal(policy.act(observations(10), None), policy.distribution.mode(parameters))
    assert torch.equal(policy.act(observations(10), None), policy.act(observations(10), None))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_env_actions_stay_inside_the_bounds(scale: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    low = -3 * torch.rand(100, generator=g)
    high = low + 5 * torch.rand(100, generator=g)
    policy = make_policy(box(low.tolist(), high.tolist()), scale_actions=scale)
    action = torch.cat([3 * torch.randn(50, 100, generator=g), torch.ones(1, 100), -torch.ones(1, 100)])
    env_action = policy.env_action(action)
    assert (env_action >= low).all()
    assert (env_action <= high).all()


def test_scaling_maps_minus_one_and_one_onto_the_bounds() -> None:
    policy = make_policy(SPECS["bounded"], scale_actions=True)
    corners = torch.tensor([[-1.0] * 4, [0.0] * 4, [1.0] * 4, [-9.0] * 4, [9.0] * 4])
    middle = [(low + high) / 2 for low, high in zip(LEFT, RIGHT, strict=True)]
    expected = torch.tensor([LEFT, middle, RIGHT, LEFT, RIGHT])
    torch.testing.assert_close(policy.env_action(corners), expected)


@pytest.mark.parametrize("spec", ["unit", "half_bounded", "unbounded"])
def test_scaling_leaves_unit_and_infinite_bounds_alone(spec: str) -> None:
    action = 3 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    plain, scaled = (make_policy(SPECS[spec], scale_actions=scale) for scale in (False, True))
    assert torch.equal(plain.env_action(action), scaled.env_action(action))


def test_clipping_changes_only_what_is_outside() -> None:
    action = 3 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    policy = make_policy(SPECS["bounded"])
    env_action = policy.env_action(action)
    inside = (action >= policy.action_low) & (action <= policy.action_high)
    assert inside.any()
    assert not inside.all()
    assert torch.equal(env_action[inside], action[inside])


def test_infinite_bounds_leave_the_action_untouched() -> None:
    action = 100 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(make_policy(SPECS["unbounded"]).env_action(action), action)


def test_discrete_actions_count_from_the_start() -> None:
    policy = make_policy(SPECS["discrete"])
    assert policy.env_action(torch.tensor([0, 1, 4])).tolist() == [3, 4, 7]


@pytest.mark.parametrize("scale", [True, False])
def test_env_actions_have_the_shape_that_the_environment_takes(scale: bool) -> None:
    spec = ActionSpec(size=6, low=(-2.0,) * 6, high=(3.0,) * 6, shape=(2, 3))
    policy = make_policy(spec, scale_actions=scale)
    action = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    flat = make_policy(box([-2.0] * 6, [3.0] * 6), scale_actions=scale).env_action(action)
    assert torch.equal(policy.env_action(action), flat.view(7, 2, 3))
    assert policy.env_action(policy.act(observations(7), None)).shape == (7, 2, 3)


@pytest.mark.parametrize(
    ("spec", "bounded"),
    [("unit", True), ("bounded", True), ("half_bounded", False), ("unbounded", False), ("discrete", False)],
)
def test_bounded_means_two_finite_bounds_everywhere(spec: str, bounded: bool) -> None:
    assert SPECS[spec].bounded is bounded


@pytest.mark.parametrize("scale", [True, False])
@torch.no_grad()
def test_the_ratio_is_one_at_theta_old_on_the_batch_and_on_minibatches_of_it(scale: bool) -> None:
    policy = make_policy(box([-0.4] * 17, [0.4] * 17), hidden_sizes=(64, 64), scale_actions=scale)
    fill_normalizer(wander(policy, size=0.1))
    raw = observations(2048)
    noise = policy.distribution.noise((2048,), torch.Generator().manual_seed(1))
    action, _ = policy.frozen()(raw, noise)
    observation = policy.normalize(raw)
    behaviour = policy.actor(observation)
    order = torch.randperm(2048, generator=torch.Generator().manual_seed(2))
    # One row alone goes through another matrix product, which rounds differently.
    for size, bound in [(2048, 1e-6), (500, 1e-6), (64, 1e-6), (37, 1e-6), (1, 1e-5)]:
        for index in order.split(size)[:100]:
            new = policy.actor(observation[index])
            stats = policy_stats(policy.distribution, new, behaviour[index], action[index])
            assert (stats.ratio - 1).abs().max() < bound
            assert stats.kl.abs().max() < 1e-5


def test_policy_and_critic_share_nothing() -> None:
    policy = make_policy(SPECS["unit"])
    actor, critic = ({p.data_ptr() for p in part.parameters()} for part in (policy.actor, policy.critic))
    assert not actor & critic
    assert len(actor | critic) == len(list(policy.parameters()))
