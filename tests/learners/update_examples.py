"""Policies, batches and learners for the tests of the update."""

import copy
from typing import Any

import torch
from recordings import AsksNothing

from rlkit_es.learners.adam_learner import AdamLearner
from rlkit_es.learners.config import DEFAULTS, UpdateConfig
from rlkit_es.learners.estimates import Estimates, Estimator
from rlkit_es.learners.learner import make_learner as make_any_learner
from rlkit_es.learners.loops import PythonLoop
from rlkit_es.learners.natural_learner import NaturalLearner
from rlkit_es.learners.recipes import RECIPES, fill_slots, find_recipe
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.types import ActionSpec, Batch, ObservationSpec

OBSERVATION_SIZE = 6
BOX = ActionSpec(size=3, low=(-1.0,) * 3, high=(1.0,) * 3, shape=(3,))
DISCRETE = ActionSpec(size=4, discrete=True)
BATCH_SIZE = 200
ADAM = [name for name, recipe in RECIPES.items() if recipe.step == "adam"]
NATURAL = [name for name, recipe in RECIPES.items() if recipe.step == "natural"]


def make_config(**changes: Any) -> UpdateConfig:
    return UpdateConfig(**({"minibatch_size": 16, "epochs": 3, "critic_epochs": 3} | changes))


def make_config_for(algo: str, **changes: Any) -> UpdateConfig:
    """With the recipe's own defaults but for few epochs, of steps that get somewhere, on one estimate of the
    advantages; short natural steps; masks that drop some.
    """
    few: dict[str, Any] = {"minibatch_size": 16, "critic_epochs": 3, "dropout_kl": 0.02}
    if algo in ADAM:
        one_rate = {"learning_rate": 3e-4, "critic_learning_rate": None, "log_std_learning_rate": None}
        few |= {"epochs": 3, "recompute_advantages": False, **one_rate}
    else:
        few |= {"max_kl": 0.02, "max_kl_schedule": "constant"}
    return UpdateConfig(**(update_defaults(algo) | few | changes))


def update_defaults(algo: str) -> dict[str, Any]:
    """Of the recipe's own defaults those of an update; the others are of the rollout."""
    return {name: value for name, value in find_recipe(algo).defaults.items() if name in DEFAULTS}


def make_policy(action: ActionSpec = BOX, seed: int = 0, hidden: tuple[int, ...] = (16, 12)) -> ActorCritic:
    """A policy some way into its training: no parameter is 0, no two rows are alike."""
    generator = torch.Generator().manual_seed(seed)
    policy = ActorCritic(
        ObservationSpec((OBSERVATION_SIZE,)),
        action,
        hidden_sizes=hidden,
        critic_hidden_sizes=hidden,
        activation="tanh",
        log_std_init=-0.5,
        observation_clip=10.0,
        normalize_observations=False,
        scale_actions=False,
        generator=generator,
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


@torch.no_grad()
def moved(policy: ActorCritic, distance: float = 0.02, seed: int = 0) -> ActorCritic:
    """A copy of the policy with each parameter a little elsewhere."""
    generator = torch.Generator().manual_seed(500 + seed)
    other = copy.deepcopy(policy)
    for parameter in other.parameters():
        parameter.add_(distance * torch.randn(parameter.shape, generator=generator).to(parameter))
    return other


@torch.no_grad()
def make_batch(policy: ActorCritic, seed: int = 0, size: int = BATCH_SIZE, valid: float = 0.85) -> Batch:
    """What ``policy`` did in random states; good actions have something in common."""
    g = torch.Generator().manual_seed(1000 + seed)
    dtype = next(policy.parameters()).dtype
    observation = torch.randn(size, OBSERVATION_SIZE, generator=g).to(dtype)
    behaviour = policy.actor(observation)
    action = policy.distribution.sample(behaviour, policy.distribution.noise((size,), g).to(dtype))
    liked = action.double() if policy.action.discrete else action.sum(-1)
    noise = torch.randn(2, size, generator=g).to(dtype)
    return Batch(
        observation=observation,
        action=action,
        behaviour=behaviour,
        advantage=(liked + observation[:, 0] + noise[0]).to(dtype),
        value_target=3 * observation[:, 1] + noise[1],
        valid=torch.rand(size, generator=g) < valid,
    )


def make_learner(
    algo: str, config: UpdateConfig, policy: ActorCritic | None = None, seed: int = 0, **kwargs: Any
) -> AdamLearner:
    """A learner for a fresh policy, or for the given one."""
    policy = make_policy() if policy is None else policy
    generator = torch.Generator().manual_seed(seed)
    return AdamLearner(policy, fill_slots(find_recipe(algo), config), config, generator, **kwargs)


def watched_steps(learner: AdamLearner) -> list[str]:
    """Names of the steps that ``learner`` takes from now on, none of which may ask the host for anything."""
    steps = []

    def watched(step: Any) -> PythonLoop:
        def asking_nothing(*given: Any) -> Any:
            steps.append(step.__name__)
            with AsksNothing():
                return step(*given)

        return PythonLoop(asking_nothing, watch=False)

    learner.loop_by(watched)
    return steps


def updated(
    algo: str,
    config: UpdateConfig,
    batch: Batch | None = None,
    action: ActionSpec = BOX,
    remaining: float = 1.0,
    **kwargs: Any,
) -> tuple[AdamLearner, dict[str, float]]:
    """A fresh learner after one update, and the update's metrics."""
    policy = make_policy(action)
    batch = make_batch(policy) if batch is None else batch
    learner = make_learner(algo, config, policy, **kwargs)
    return learner, learner.update(batch, config.learning_rate, remaining)


def make_natural_learner(
    algo: str, config: UpdateConfig, policy: ActorCritic | None = None, seed: int = 0
) -> NaturalLearner:
    """`make_learner` for a natural step."""
    policy = make_policy() if policy is None else policy
    generator = torch.Generator().manual_seed(seed)
    return NaturalLearner(policy, fill_slots(find_recipe(algo), config), config, generator)


def parameters_after(algo: str, config: UpdateConfig, remaining: float = 1.0) -> torch.Tensor:
    """(P,) of policy and critic after one update by whatever learner the recipe has."""
    policy = make_policy()
    batch = make_batch(policy)
    learner = make_any_learner(algo, policy, config, torch.Generator().manual_seed(0))
    learner.update(batch, config.learning_rate, remaining, estimator_of(batch))
    return parameters_of(policy)


def estimator_of(batch: Batch) -> Estimator:
    """What a batch's critic thinks, for advantages of which it is a part."""

    @torch.no_grad()
    def estimator(policy: ActorCritic) -> Estimates:
        value = policy.value(batch.observation)
        return Estimates(batch.advantage - 0.5 * value, batch.value_target + 0.5 * value)

    return estimator


def actor_size(policy: ActorCritic) -> int:
    return sum(p.numel() for p in policy.actor.parameters())


def parameters_of(policy: ActorCritic) -> torch.Tensor:
    """(P,) actor first, then critic, as the learner's state has them."""
    parts = [*policy.actor.parameters(), *policy.critic.parameters()]
    return torch.cat([p.detach().flatten() for p in parts]).clone()


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())
