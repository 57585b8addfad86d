"""The policy and its critic, with everything that acting needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlkit_es.models.building import build, width_of
from rlkit_es.models.distributions import make_distribution
from rlkit_es.models.encoders import Encoder, Precision
from rlkit_es.models.networks import (
    CategoricalActor,
    Critic,
    Encoded,
    GaussianActor,
    WithFeatures,
    frozen,
)
from rlkit_es.models.normalizers import ObservationNormalizer
from rlkit_es.types import ActionSpec, ObservationSpec


class ActorCritic(nn.Module):
    """Actor and critic networks behind one observation normaliser, or behind encoders of pictures.

    Args:
        observation: what the environment shows.
        action: what it accepts.
        network: a name in ``networks.NETWORKS``.
        hidden_sizes: width of each hidden layer of the actor.
        critic_hidden_sizes: of the critic.
        activation: a name in ``networks.ACTIVATIONS``.
        log_std_init: initial log standard deviation of a continuous action.
        observation_clip: bound of a normalised observation.
        normalize_observations: False leaves observations as they are; pictures are left so anyway.
        scale_actions: map [-1, 1] onto the bounds of a bounded continuous action.
        encoder: a name in ``encoders.ENCODERS``, for pictures.
        share_encoder: one for actor and critic, whose parameters are among the actor's.
        precision: of the encoder's arithmetic.
        generator: for the initial weights.

    Raises:
        UserError: the encoder cannot take such pictures, or one of the user's own cannot be made.
    """

    action_low: Tensor
    action_high: Tensor
    action_middle: Tensor
    action_half_range: Tensor

    def __init__(
        self,
        observation: ObservationSpec,
        action: ActionSpec,
        *,
        network: str = "mlp",
        hidden_sizes: Sequence[int],
        critic_hidden_sizes: Sequence[int],
        activation: str,
        log_std_init: float,
        observation_clip: float,
        normalize_observations: bool,
        scale_actions: bool,
        encoder: str = "nature_cnn",
        share_encoder: bool = True,
        precision: Precision = "auto",
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.action = action
        unit_bounds = {*action.low} == {-1.0} and {*action.high} == {1.0}
        self.scale_actions = scale_actions and action.bounded and not unit_bounds
        self.distribution = make_distribution(action)
        self.normalizer = (
            ObservationNormalizer(observation.size, observation_clip)
            if normalize_observations and not observation.pixels
            else None
        )
        self.pixels = observation.pixels
        self.shares_encoder = share_encoder and observation.pixels

        def network_to(hidden: Sequence[int], outputs: int, gain: float, *, encoded: bool) -> nn.Module:
            def network_from(inputs: int) -> nn.Module:
                return build("network", network, (inputs, *hidden, outputs), activation, gain, generator)

            if not observation.pixels:
                return network_from(observation.size)
            own = build("encoder", encoder, observation.shape, generator)
            pictures = torch.zeros(2, *observation.shape, dtype=torch.uint8)
            top = network_from(width_of(f"encoder {encoder}", own, pictures))
            return Encoded(Encoder(own, precision), top) if encoded else top

        # A last layer near zero: the first policy does not depend on the observation.
        actor = network_to(hidden_sizes, action.size, 0.01, encoded=True)
        self.actor = (
            CategoricalActor(actor) if action.discrete else GaussianActor(actor, action.size, log_std_init)
        )
        self.critic = Critic(network_to(critic_hidden_sizes, 1, 1.0, encoded=not self.shares_encoder))
        low, high = torch.tensor(action.low), torch.tensor(action.high)
        self.register_buffer("action_low", low, persistent=False)
        self.register_buffer("action_high", high, persistent=False)
        self.register_buffer("action_middle", 0.5 * (low + high), persistent=False)
        self.register_buffer("action_half_range", 0.5 * (high - low), persistent=False)

    def normalize(self, observation: Tensor) -> Tensor:
        """Raw observations (..., O) to what the networks see."""
        return observation if self.normalizer is None else self.normalizer(observation)

    def evaluate(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised observations (M, O) to parameters (M, D) and values (M,)."""
        parameters, _, critic_input = self.with_features(observation)
        return parameters, self.critic(critic_input)

    def value(self, observation: Tensor) -> Tensor:
        """Normalised observations (M, O) to values (M,)."""
        value: Tensor = self.critic(self.critic_input(observation))
        return value

    def critic_input(self, observation: Tensor) -> Tensor:
        """What the critic takes for normalised observations: themselves, or features (M, F)."""
        if not self.shares_encoder:
            return observation
        encoded: Any = self.actor.network
        features: Tensor = encoded.encoder(observation)
        return features

    @property
    def with_features(self) -> WithFeatures:
        """The actor, and what the critic takes, in one pass."""
        return WithFeatures(self.actor, shared=self.shares_encoder)

    def act(self, observation: Tensor, noise: Tensor | None) -> Tensor:
        """Unclipped actions (N, A) or (N,) for raw observations (N, O); the mode without noise."""
        parameters = self.actor(self.normalize(observation))
        if noise is None:
            return self.distribution.mode(parameters)
        return self.distribution.sample(parameters, noise)

    def frozen(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """`act` and `env_action` for as long as nothing changes: what a rollout is collected with.

        All that does not depend on the observation is done once, which halves the time of acting.

        Returns:
            a function from raw observations (N, O) and noise to the action and what the environment
            receives for it.
        """
        normalize = self.normalize if self.normalizer is None else self.normalizer.frozen()
        sample, env_action = self.actor.frozen(), self.env_action

        def act(observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            action = sample(normalize(observation), noise)
            return action, env_action(action)

        return act

    def frozen_evaluating(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]:
        """`frozen` for a shared encoder, with what `evaluate` gives: on features it costs next to nothing.

        Returns:
            a function from raw observations (N, C, H, W) and noise to the action, what the environment
            receives for it, parameters (N, D) and values (N,).
        """
        encoded: Any = self.actor.network
        encode, actor, critic = (
            frozen(part) for part in (encoded.encoder, encoded.network, self.critic.network)
        )

        def act(observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            features = encode(observation)
            parameters = self.actor.parameters_of(actor(features))
            action = self.distribution.sample(parameters, noise)
            return action, self.env_action(action), parameters, critic(features).squeeze(-1)

        return act

    def env_action(self, action: Tensor) -> Tensor:
        """What the environment receives: clipped to its bounds, or scaled onto them."""
        if self.action.discrete:
            return action + self.action.start
        if self.scale_actions:
            action = torch.addcmul(self.action_middle, action, self.action_half_range)
        return action.clamp(self.action_low, self.action_high).view(-1, *self.action.shape)
