"""Multi-layer perceptrons with the initialisation that on-policy methods are known to need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit_es.models.encoders import Encoder

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": functional.elu,
    "silu": functional.silu,
}


class MLP(nn.Module):
    """Linear layers of ``sizes`` with the activation between them.

    Orthogonal weights with gain sqrt(2) (``output_gain`` in the last layer) and zero biases, as in
    Engstrom et al., arXiv:2005.12729, and Andrychowicz et al., arXiv:2006.05990.

    One module rather than a ``Sequential`` of many: with small layers most of the time of acting
    would go to calling modules.
    """

    def __init__(
        self, sizes: Sequence[int], activation: str, output_gain: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.depth = len(sizes) - 1
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            weight = torch.empty(outputs, inputs)
            gain = output_gain if i == self.depth - 1 else 2**0.5
            nn.init.orthogonal_(weight, gain, generator=generator)
            self.register_parameter(f"weight_{i}", nn.Parameter(weight))
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(outputs)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) to (..., sizes[-1])."""
        parameters = self._parameters
        for i in range(self.depth):
            if i:
                x = self.activation(x)
            x = functional.linear(x, parameters[f"weight_{i}"], parameters[f"bias_{i}"])  # type: ignore[arg-type]
        return x

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """The same function for (M, sizes[0]) alone, with the parameters looked up beforehand."""
        layers = [
            (self.get_parameter(f"bias_{i}"), self.get_parameter(f"weight_{i}").t())
            for i in range(self.depth)
        ]
        (first_bias, first_weight), *rest = layers
        activation = self.activation

        def run(x: Tensor) -> Tensor:
            x = torch.addmm(first_bias, x, first_weight)
            for bias, weight in rest:
                x = torch.addmm(bias, activation(x), weight)
            return x

        return run


class Encoded(nn.Module):
    """A network on top of an encoder."""

    def __init__(self, encoder: Encoder, network: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.network = network

    def forward(self, picture: Tensor) -> Tensor:
        """(M, C, H, W) to (M, outputs)."""
        outputs: Tensor = self.network(self.encoder(picture))
        return outputs

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """The same function without gradients, for as long as the parameters stay as they are."""
        encode, run = self.encoder.frozen(), frozen(self.network)
        return lambda picture: run(encode(picture))


# A constructor takes the arguments of `MLP`; a module of the user's own need not have `MLP.frozen`.
NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP}


def frozen(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network as a function, for as long as its parameters stay as they are."""
    return network.frozen() if isinstance(network, MLP | Encoded | Encoder) else network


class GaussianActor(nn.Module):
    """Mean from a network, log standard deviation a parameter of its own."""

    def __init__(self, network: nn.Module, action_size: int, log_std_init: float) -> None:
        super().__init__()
        self.network = network
        self.log_std = nn.Parameter(torch.full((action_size,), float(log_std_init)))

    def forward(self, observation: Tensor) -> Tensor:
        """Normalised observations (M, O) to ``[mean, log_std]`` (M, 2A)."""
        return self.parameters_of(self.network(observation))

    def parameters_of(self, mean: Tensor) -> Tensor:
        """The distribution's parameters, from what the network gives."""
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=-1)

    def frozen(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Samples for (M, O) observations and (M, A) noise, for as long as the parameters do not change."""
        network, std = frozen(self.network), self.log_std.exp()
        return lambda observation, noise: torch.addcmul(network(observation), std, noise)


class CategoricalActor(nn.Module):
    """Log-probabilities from a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor) -> Tensor:
        """Normalised observations (M, O) to log-probabilities (M, n)."""
        return self.parameters_of(self.network(observation))

    def parameters_of(self, logits: Tensor) -> Tensor:
        """The distribution's parameters, from what the network gives."""
        return torch.log_softmax(logits, dim=-1)

    def frozen(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Samples for (M, O) observations and (M, n) noise, for as long as the parameters do not change."""
        network = frozen(self.network)
        return lambda observation, noise: (network(observation) + noise).argmax(-1)


class Evaluated(NamedTuple):
    """What `WithFeatures` makes of observations."""

    parameters: Tensor  # (M, D)
    passed: Tensor  # (M, D) the same, by way of what the outputs were passed through
    critic_input: Tensor  # (M, ...)


class WithFeatures(nn.Module):
    """An actor with what its critic takes: the features of the encoder that they share, if they do.

    Args:
        actor: its network is an `Encoded` one where ``shared``.
        shared: whether the critic takes features; else it takes the observation.
    """

    def __init__(self, actor: GaussianActor | CategoricalActor, *, shared: bool) -> None:
        super().__init__()
        self.actor = actor
        self.shared = shared

    def forward(self, observation: Tensor, through: Callable[[Tensor], Tensor] | None = None) -> Evaluated:
        """Of normalised observations (M, ...); ``through`` leaves outputs as they are, and not gradients."""
        network: Any = self.actor.network
        seen = observation
        if self.shared:
            seen, network = network.encoder(observation), network.network
        outputs = network(seen)
        parameters = self.actor.parameters_of(outputs)
        passed = parameters if through is None else self.actor.parameters_of(through(outputs))
        return Evaluated(parameters, passed, seen)


class Critic(nn.Module):
    """State value."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor) -> Tensor:
        """Normalised observations (..., O) to values (...,)."""
        value: Tensor = self.network(observation).squeeze(-1)
        return value
