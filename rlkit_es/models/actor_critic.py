"""The policy and its critic, with everything that acting needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rlkit_es.errors import look_up
from rlkit_es.models.distributions import make_distribution
from rlkit_es.models.networks import NETWORKS, CategoricalActor, Critic, GaussianActor
from rlkit_es.models.normalizers import ObservationNormalizer
from rlkit_es.types import ActionSpec


class ActorCritic(nn.Module):
    """Separate actor and critic networks behind one observation normaliser.

    Args:
        observation_size: O.
        action: what the environment accepts.
        network: a name in ``networks.NETWORKS``.
        hidden_sizes: width of each hidden layer, of the actor and of the critic.
        activation: a name in ``networks.ACTIVATIONS``.
        log_std_init: initial log standard deviation of a continuous action.
        observation_clip: bound of a normalised observation.
        normalize_observations: False leaves observations as they are.
        scale_actions: map [-1, 1] onto the bounds of a bounded continuous action.
        generator: for the initial weights.
    """

    action_low: Tensor
    action_high: Tensor
    action_middle: Tensor
    action_half_range: Tensor

    def __init__(
        self,
        observation_size: int,
        action: ActionSpec,
        *,
        network: str = "mlp",
        hidden_sizes: Sequence[int],
        activation: str,
        log_std_init: float,
        observation_clip: float,
        normalize_observations: bool,
        scale_actions: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.action = action
        unit_bounds = {*action.low} == {-1.0} and {*action.high} == {1.0}
        self.scale_actions = scale_actions and action.bounded and not unit_bounds
        self.distribution = make_distribution(action)
        self.normalizer = (
            ObservationNormalizer(observation_size, observation_clip) if normalize_observations else None
        )
        body = (observation_size, *hidden_sizes)
        # A last layer near zero: the first policy does not depend on the observation.
        make = look_up("network", network, NETWORKS)
        actor = make((*body, action.size), activation, 0.01, generator)
        self.actor = (
            CategoricalActor(actor) if action.discrete else GaussianActor(actor, action.size, log_std_init)
        )
        self.critic = Critic(make((*body, 1), activation, 1.0, generator))
        low, high = torch.tensor(action.low), torch.tensor(action.high)
        self.register_buffer("action_low", low, persistent=False)
        self.register_buffer("action_high", high, persistent=False)
        self.register_buffer("action_middle", 0.5 * (low + high), persistent=False)
        self.register_buffer("action_half_range", 0.5 * (high - low), persistent=False)

    def normalize(self, observation: Tensor) -> Tensor:
        """Raw observations (..., O) to what the networks see."""
        return observation if self.normalizer is None else self.normalizer(observation)

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

    def env_action(self, action: Tensor) -> Tensor:
        """What the environment receives: clipped to its bounds, or scaled onto them."""
        if self.action.discrete:
            return action + self.action.start
        if self.scale_actions:
            action = torch.addcmul(self.action_middle, action, self.action_half_range)
        return action.clamp(self.action_low, self.action_high).view(-1, *self.action.shape)
