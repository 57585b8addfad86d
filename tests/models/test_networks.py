import pytest
import torch
from policy_examples import box, make_policy
from torch import nn

from rlkit_es.models.networks import ACTIVATIONS, MLP, Critic
from rlkit_es.types import ActionSpec

MODULES = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


def make_mlp(sizes: tuple[int, ...], activation: str = "tanh", gain: float = 1.0, seed: int = 0) -> MLP:
    return MLP(sizes, activation, gain, torch.Generator().manual_seed(seed))


def assert_orthogonal(weight: torch.Tensor, gain: float) -> None:
    """W W^T (or W^T W, whichever is smaller) is gain^2 times the identity."""
    short = weight if weight.shape[0] <= weight.shape[1] else weight.T
    identity = torch.eye(len(short))
    torch.testing.assert_close(short @ short.T / gain**2, identity, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [(11, 64, 64, 6), (3, 5), (200, 32, 1), (4, 16, 8, 16, 2)])
@pytest.mark.parametrize("gain", [0.01, 1.0])
def test_orthogonal_weights_and_zero_biases(sizes: tuple[int, ...], gain: float) -> None:
    mlp = make_mlp(sizes, gain=gain)
    last = len(sizes) - 2
    for i in range(last + 1):
        assert_orthogonal(mlp.get_parameter(f"weight_{i}"), gain if i == last else 2**0.5)
        assert (mlp.get_parameter(f"bias_{i}") == 0).all()


@pytest.mark.parametrize("action", [box([-1, -1], [1, 1]), ActionSpec(size=5, discrete=True)])
def test_gains_of_policy_and_critic(action: ActionSpec) -> None:
    policy = make_policy(action)
    for network, gain in ((policy.actor.network, 0.01), (policy.critic.network, 1.0)):
        *hidden, last = (weight for weight in network.parameters() if weight.dim() == 2)
        assert_orthogonal(last, gain)
        for weight in hidden:
            assert_orthogonal(weight, 2**0.5)


def test_actor_and_critic_have_hidden_layers_of_their_own() -> None:
    policy = make_policy(box([-1, -1], [1, 1]), hidden_sizes=(7, 3), critic_hidden_sizes=(5,))
    shapes = [
        [tuple(weight.shape) for weight in network.parameters() if weight.dim() == 2]
        for network in (policy.actor.network, policy.critic.network)
    ]
    assert shapes == [[(7, 11), (3, 7), (2, 3)], [(5, 11), (1, 5)]]


def test_the_generator_alone_fixes_the_weights() -> None:
    first, again, other = (list(make_mlp((4, 8, 2), seed=seed).parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("sizes", [(11, 64, 64, 6), (3, 5)])
def test_forward_equals_a_sequential_of_the_same_weights(activation: str, sizes: tuple[int, ...]) -> None:
    mlp = make_mlp(sizes, activation)
    g = torch.Generator().manual_seed(1)
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        bias = mlp.get_parameter(f"bias_{i}")
        bias.data = torch.randn(bias.shape, generator=g)
        linear = nn.Linear(sizes[i], sizes[i + 1])
        linear.weight.data, linear.bias.data = mlp.get_parameter(f"weight_{i}").data, bias.data
        layers += [linear, MODULES[activation]()]
    sequential = nn.Sequential(*layers[:-1])
    x = torch.randn(20, sizes[0], generator=g)
    torch.testing.assert_close(mlp(x), sequential(x))
    torch.testing.assert_close(mlp.frozen()(x), sequential(x))
    torch.testing.assert_close(mlp(x.view(4, 5, -1)), sequential(x).view(4, 5, -1))


def test_the_critic_gives_one_value_for_each_state() -> None:
    critic = Critic(make_mlp((4, 8, 1)))
    assert critic(torch.zeros(7, 4)).shape == (7,)
    assert critic(torch.zeros(3, 7, 4)).shape == (3, 7)


def test_log_std_starts_where_it_is_told() -> None:
    policy = make_policy(box([-1] * 6, [1] * 6), log_std_init=-0.7)
    assert policy.actor.log_std.tolist() == pytest.approx([-0.7] * 6)


def test_categorical_parameters_are_log_probabilities() -> None:
    policy = make_policy(ActionSpec(size=5, discrete=True))
    parameters = policy.actor(torch.randn(30, 11, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(parameters.exp().sum(-1), torch.ones(30))
