"""Whether an exported policy does what the policy does that it was made from."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rlkit_es.errors import UserError, line_and_type
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.types import ObservationSpec

CHECKED = 1_000  # random observations
_SIZES = (0.1, 1.0, 10.0, 1_000.0)  # of observations, in standard deviations from the mean


@torch.no_grad()
def largest_difference(
    policy: ActorCritic, observation: ObservationSpec, exported: Callable[[np.ndarray], np.ndarray]
) -> float:
    """How far ``exported`` is from ``policy`` on random observations, of all sizes up to very large ones.

    Of continuous actions the difference, relative where the action is beyond 1; of discrete ones by how
    much less likely the action is, in nats. Infinite where anything is not a finite number.

    Args:
        policy: on the CPU.
        observation: what it takes.
        exported: from raw observations (N, O) to actions.

    Raises:
        UserError: ``policy`` itself fails on such observations.
    """
    seen = _random_observations(policy, observation)
    try:
        expected = policy.env_action(policy.act(seen, None))
    except Exception as error:  # a network of the user's own may take its values for indices, say
        raise UserError(
            "the exported policy cannot be checked, since this one fails on random observations: "
            f"{line_and_type(error)}"
        ) from error
    found = torch.from_numpy(np.array(exported(seen.numpy())))
    alone = torch.from_numpy(np.array(exported(seen[:1].numpy())))
    if (found.shape, found.dtype) != (expected.shape, expected.dtype) or alone.shape != expected[:1].shape:
        return float("inf")
    if policy.action.discrete:
        log_probability = policy.actor(policy.normalize(seen))
        return _finite_max(_less_likely(log_probability, found - policy.action.start))
    return _finite_max(_relative(found, expected))


@torch.no_grad()
def rounding(policy: ActorCritic, observation: ObservationSpec) -> float:
    """How far ``policy`` is from itself in float64: that much another float32 program may differ too.

    Args:
        policy: on the CPU.
        observation: what it takes.
    """
    seen = _random_observations(policy, observation)
    result = _result(policy, seen)
    if not torch.equal(result, _result(policy, seen)):
        return 0.0  # it draws random numbers: that is no rounding
    try:
        exact = _result(copy.deepcopy(policy).double(), seen if observation.pixels else seen.double())
    except RuntimeError:  # a network of the user's own that is for float32 alone
        return 0.0
    difference = _finite_max(_relative(result.double(), exact))
    return difference if math.isfinite(difference) else 0.0


def _result(policy: ActorCritic, observation: Tensor) -> Tensor:
    """What rounding shows in: actions, or the log-probabilities of discrete ones."""
    parameters: Tensor = policy.actor(policy.normalize(observation))
    return parameters if policy.action.discrete else policy.env_action(policy.distribution.mode(parameters))


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).abs() / expected.abs().clamp(min=1.0)


def _less_likely(log_probability: Tensor, action: Tensor) -> Tensor:
    """(N,) of the most likely action minus of ``action``; infinite where that is none."""
    actions = log_probability.shape[-1]
    of_action = log_probability.gather(-1, action.clamp(0, actions - 1).unsqueeze(-1)).squeeze(-1)
    real = (action >= 0) & (action < actions)
    return torch.where(real, log_probability.amax(-1) - of_action, torch.inf)


def _finite_max(difference: Tensor) -> float:
    return float(difference.nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def _random_observations(policy: ActorCritic, observation: ObservationSpec) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if observation.pixels:
        return torch.randint(256, (CHECKED, *observation.shape), dtype=torch.uint8, generator=generator)
    noise = torch.randn(CHECKED, observation.size, generator=generator)
    noise = noise * torch.tensor(_SIZES).repeat(CHECKED // len(_SIZES)).unsqueeze(1)
    if policy.normalizer is None:
        return noise
    inverse_std = policy.normalizer.inverse_std
    return policy.normalizer.mean + noise / torch.where(inverse_std > 0, inverse_std, 1.0)
