import math
from typing import Any

import pytest
import torch
from policy_examples import PICTURE, box, make_policy, observations, pictures, wander
from torch import Tensor

from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.models.encoders import Encoder
from rlkit_es.models.networks import Encoded
from rlkit_es.types import ActionSpec, ObservationSpec

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


# --- pictures ---

kinds_of_action = pytest.mark.parametrize("spec", ["bounded", "discrete"])
shared_or_not = pytest.mark.parametrize("shared", [True, False])


def policy_of_pictures(spec: str = "discrete", *, shared: bool = True, **changes: Any) -> ActorCritic:
    settings: dict[str, Any] = {"observation": PICTURE, "share_encoder": shared, "precision": "float32"}
    return wander(make_policy(SPECS[spec], **(settings | changes)), size=0.02)


def storages(module: torch.nn.Module) -> set[int]:
    return {p.data_ptr() for p in module.parameters()}


@kinds_of_action
@shared_or_not
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("hidden_sizes", [(), (16,)])
@torch.no_grad()
def test_evaluating_pictures_is_the_actor_and_the_value_at_once(
    spec: str, shared: bool, precision: str, hidden_sizes: tuple[int, ...]
) -> None:
    policy = policy_of_pictures(spec, shared=shared, precision=precision, hidden_sizes=hidden_sizes)
    seen = pictures(300)  # more than one chunk
    parameters, value = policy.evaluate(seen)
    assert torch.equal(parameters, policy.actor(seen))
    assert torch.equal(value, policy.value(seen))
    assert parameters.dtype == value.dtype == torch.float32
    assert parameters.shape == (300, 8 if spec == "bounded" else 5)
    assert value.shape == (300,)
    assert value.std() > 0


@pytest.mark.parametrize("normalize", [True, False])
@torch.no_grad()
def test_evaluating_numbers_is_the_actor_and_the_critic_at_once(normalize: bool) -> None:
    policy = wander(make_policy(SPECS["bounded"], normalize_observations=normalize))
    seen = policy.normalize(observations(20))
    parameters, value = policy.evaluate(seen)
    assert torch.equal(parameters, policy.actor(seen))
    assert torch.equal(value, policy.critic(seen))
    assert torch.equal(value, policy.value(seen))


@kinds_of_action
@shared_or_not
@pytest.mark.parametrize("scale", [True, False])
@torch.no_grad()
def test_frozen_equals_act_and_env_action_on_pictures(spec: str, shared: bool, scale: bool) -> None:
    policy, seen = policy_of_pictures(spec, shared=shared, scale_actions=scale), pictures(30)
    noise = policy.distribution.noise((30,), torch.Generator().manual_seed(1))
    action, env_action = policy.frozen()(seen, noise)
    assert torch.equal(action, policy.act(seen, noise))
    assert torch.equal(env_action, policy.env_action(action))
    assert not torch.equal(policy.act(seen, noise), policy.act(seen, None))


@kinds_of_action
def test_a_shared_encoder_is_the_actors_and_the_critic_takes_its_features(spec: str) -> None:
    policy, seen = policy_of_pictures(spec), pictures(6)
    assert policy.shares_encoder
    assert isinstance(policy.actor.network, Encoded)
    assert [module for module in policy.critic.modules() if isinstance(module, Encoder)] == []
    features = policy.actor.network.encoder(seen)
    assert features.shape == (6, 512)
    assert torch.equal(policy.critic_input(seen), features)
    parameters, _, critic_input = policy.with_features(seen)
    assert torch.equal(parameters, policy.actor(seen))
    assert torch.equal(critic_input, features)
    assert torch.equal(policy.value(seen), policy.critic(features))


@kinds_of_action
def test_without_sharing_each_part_has_an_encoder_of_its_own(spec: str) -> None:
    policy, seen = policy_of_pictures(spec, shared=False), pictures(6)
    assert not policy.shares_encoder
    for part in (policy.actor, policy.critic):
        assert len([module for module in part.modules() if isinstance(module, Encoder)]) == 1
    features = [part.network.encoder(seen) for part in (policy.actor, policy.critic)]
    assert not torch.allclose(*features)
    assert policy.critic_input(seen) is seen
    assert policy.with_features(seen).critic_input is seen


@kinds_of_action
@shared_or_not
def test_no_parameter_is_in_both_parts(spec: str, shared: bool) -> None:
    policy = policy_of_pictures(spec, shared=shared)
    actor, critic = storages(policy.actor), storages(policy.critic)
    assert not actor & critic
    assert actor | critic == storages(policy)
    assert storages(policy.with_features) == actor


@shared_or_not
def test_the_values_gradient_reaches_the_encoder_that_the_critic_sees_through(shared: bool) -> None:
    policy = policy_of_pictures(shared=shared)
    policy.evaluate(pictures(6))[1].square().mean().backward()
    encoders = {part: getattr(policy, part).network for part in ("actor", "critic")}
    reached = {
        part: any(p.grad is not None and p.grad.any() for p in network.encoder.parameters())
        for part, network in encoders.items()
        if isinstance(network, Encoded)
    }
    assert reached == ({"actor": True} if shared else {"actor": False, "critic": True})


@pytest.mark.parametrize("normalize", [True, False])
def test_pictures_are_not_normalised(normalize: bool) -> None:
    policy = policy_of_pictures(normalize_observations=normalize)
    assert policy.normalizer is None
    seen = pictures(3)
    assert policy.normalize(seen) is seen


@shared_or_not
def test_sharing_says_nothing_of_numbers(shared: bool) -> None:
    policy = make_policy(SPECS["unit"], share_encoder=shared)
    assert not policy.shares_encoder
    assert [module for module in policy.modules() if isinstance(module, Encoder)] == []


def test_the_first_policy_hardly_depends_on_the_picture() -> None:
    policy = make_policy(SPECS["discrete"], observation=PICTURE, hidden_sizes=())
    log_probability: Tensor = policy.actor(pictures(50))
    assert (log_probability + math.log(5)).abs().max() < 0.05


def test_the_size_of_a_policy_follows_the_picture() -> None:
    sizes = [
        sum(
            p.numel() for p in make_policy(SPECS["discrete"], observation=ObservationSpec(shape)).parameters()
        )
        for shape in ((1, 36, 36), (4, 36, 36), (4, 84, 84))
    ]
    assert sizes[1] - sizes[0] == 3 * 32 * 8 * 8
    assert sizes[2] - sizes[1] == 512 * 64 * (7 * 7 - 1)
