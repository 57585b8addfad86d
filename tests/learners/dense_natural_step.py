"""The natural step once more, with the whole Fisher matrix: what NaturalLearner must agree with."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, distributions

from rlkit_es.learners.config import UpdateConfig
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.types import Batch

Mask = Callable[[Tensor, Tensor], Tensor]  # ratio and KL of each sample to which are kept


class Outcome(NamedTuple):
    parameters: Tensor  # (P,) of the policy
    surrogate: Tensor  # () there
    accepted: bool
    trials: int
    keep: Tensor  # (valid rows,) bool


def dense_natural_step(
    policy: ActorCritic, batch: Batch, config: UpdateConfig, mask: Mask | None = None
) -> Outcome:
    """TRPO's step, or SD-TRPO's with a mask for the end of the trial step; the policy is left as it is.

    The Hessian of the mean KL and a solver take the place of Fisher products and conjugate gradient.
    """
    rows = Batch(*(field[batch.valid] for field in batch))
    start = torch.cat([p.detach().flatten() for p in policy.actor.parameters()])
    old = family(policy, rows.behaviour)

    def new(flat: Tensor) -> distributions.Distribution:
        pieces = torch.split(flat, [p.numel() for p in policy.actor.parameters()])
        named = zip(policy.actor.named_parameters(), pieces, strict=True)
        values = {name: piece.view_as(parameter) for (name, parameter), piece in named}
        return family(policy, torch.func.functional_call(policy.actor, values, rows.observation))

    def kl(flat: Tensor) -> Tensor:
        return distributions.kl_divergence(old, new(flat))

    def ratio(flat: Tensor) -> Tensor:
        return (new(flat).log_prob(rows.action) - old.log_prob(rows.action)).exp()

    def surrogate(flat: Tensor, keep: Tensor) -> Tensor:
        normal = rows.advantage[keep] if config.mask_value else rows.advantage
        a = (rows.advantage - normal.mean()) / normal.std(correction=0)
        return (ratio(flat) * a)[keep].sum() / keep.sum()

    hessian = torch.autograd.functional.hessian(lambda flat: kl(flat).mean(), start)
    damped = hessian + config.cg_damping * torch.eye(len(start), dtype=start.dtype)

    def full_step(keep: Tensor) -> Tensor:
        gradient = torch.autograd.functional.jacobian(lambda flat: surrogate(flat, keep), start)
        direction = torch.linalg.solve(damped, gradient)
        return direction * math.sqrt(2 * config.max_kl / float(direction @ damped @ direction))

    keep = torch.ones_like(rows.valid)
    if mask is not None:
        trial = start + full_step(keep)
        keep = mask(ratio(trial), kl(trial)).detach()
        assert keep.any()
    step = full_step(keep)
    return _backtrack(lambda flat: (surrogate(flat, keep), kl(flat).mean()), start, step, config, keep)


def _backtrack(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    step: Tensor,
    config: UpdateConfig,
    keep: Tensor,
) -> Outcome:
    with torch.no_grad():
        before, _ = evaluate(start)
        for trial in range(config.line_search_steps):
            candidate = start + config.line_search_shrink**trial * step
            surrogate, kl = evaluate(candidate)
            if surrogate > before and kl <= config.max_kl:
                return Outcome(candidate, surrogate, True, trial + 1, keep)
        return Outcome(start, before, False, config.line_search_steps, keep)


def family(policy: ActorCritic, parameters: Tensor) -> distributions.Distribution:
    if policy.action.discrete:
        return distributions.Categorical(logits=parameters)
    mean, log_std = parameters.chunk(2, -1)
    return distributions.Independent(distributions.Normal(mean, log_std.exp()), 1)


def plain_critic_fit(
    policy: ActorCritic, batch: Batch, minibatches: list[Tensor], config: UpdateConfig
) -> list[float]:
    """Adam on the value loss over the given rows, from no moments, in place; the loss of each step."""
    parameters, losses = list(policy.critic.parameters()), []
    learning_rate = config.critic_learning_rate or config.learning_rate
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, eps=config.adam_epsilon)
    for rows in minibatches:
        optimizer.zero_grad()
        error = policy.critic(batch.observation[rows]) - batch.value_target[rows]
        losses.append(float(error.detach().square().mean()))
        (config.value_coefficient * error.square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
    return losses
