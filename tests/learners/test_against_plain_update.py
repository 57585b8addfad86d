"""AdamLearner against an independent implementation: autograd, torch.optim.Adam, clip_grad_norm_."""

import copy

import pytest
import torch
from plain_update import PlainUpdate
from update_examples import (
    BOX,
    DISCRETE,
    make_batch,
    make_config_for,
    make_learner,
    make_policy,
    moved,
    parameters_of,
    relative_difference,
)

from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.types import ActionSpec

ESPO = {"learning_rate": 3e-3, "deviation_threshold": 0.12}
MASKED = {"mask": "ratio_within", "dropout_threshold": 0.05}
CASES = [
    ("ppo", {}),
    ("ppo", {"entropy_coefficient": 0.01, "value_coefficient": 1.3, "clip_range": 0.05}),
    ("ppo", {"critic_learning_rate": 1e-3, "learning_rate": 2e-3, "max_grad_norm": float("inf")}),
    ("ppo", {"epochs": 2, "critic_epochs": 5}),
    ("ppo", {"epochs": 5, "critic_epochs": 2}),
    ("sd_ppo", {"learning_rate": 3e-3, "dropout_threshold": 0.1}),
    ("espo", ESPO),
    ("espo", ESPO | {"critic_epochs": None, "learning_rate": 1e-3, "epochs": 6}),
    ("espo", ESPO | {"stop_when": "before"}),
    ("sd_espo", ESPO | {"dropout_threshold": 0.15}),
    ("spo", {"learning_rate": 3e-3, "clip_range": 0.05}),
    ("r2vpo", {"learning_rate": 3e-3, "constraint_limit": 0.005, "dual_learning_rate": 2.0}),
    ("ppo_adaptive", {"learning_rate": 3e-4, "max_kl": 0.004}),
    ("sd_espo", ESPO | {"dropout_threshold": 0.1, "mask_at": "trial"}),
    ("sd_ppo", {"learning_rate": 3e-3, "dropout_threshold": 0.1, "mask_at": "trial", "mask_value": True}),
    ("sd_espo", ESPO | {"dropout_threshold": 0.1, "mask_value": True, "critic_epochs": 4}),
    ("espo", ESPO | {"deviation_threshold": 0.15, "deviation_threshold_schedule": "linear"}),
    ("espo", ESPO | {"log_std_learning_rate": 1e-2, "critic_learning_rate": 1e-3}),
    # What is dropped from the surrogate stays in the entropy, in the constraint and in the measured KL.
    ("sd_ppo", {"learning_rate": 3e-3, "entropy_coefficient": 0.05, **MASKED}),
    ("r2vpo", {"learning_rate": 3e-3, "constraint_limit": 0.005, "dual_learning_rate": 2.0, **MASKED}),
    ("ppo_adaptive", {"learning_rate": 3e-4, "max_kl": 0.004, **MASKED, "mask_at": "trial"}),
    ("espo", ESPO | {"common_gradient": 0.1, "deviation_threshold": 0.06}),
    ("sd_ppo", {"learning_rate": 3e-3, "common_gradient": 0.1, **MASKED, "mask_at": "trial"}),
    ("ppo", {"common_gradient": 0.0, "entropy_coefficient": 0.05}),
    (
        "r2vpo",
        {"common_gradient": 0.0, "learning_rate": 3e-3, "constraint_limit": 0.005, "dual_learning_rate": 2.0},
    ),
]


def learn_both_ways(
    algo: str, changes: dict, policy: ActorCritic, updates: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Parameters before, after AdamLearner, and after the plain update; the batches are the same."""
    config, before = make_config_for(algo, **changes), parameters_of(policy)
    plain = PlainUpdate(algo, copy.deepcopy(policy), config)
    learner = make_learner(algo, config, policy)
    steps, ends = 0, set()
    for i in range(updates):
        # Where the policies agree, the KL is 0 but for its rounding, and whether it is above 0 chance.
        actor = moved(plain.policy) if algo == "ppo_adaptive" else plain.policy
        batch = make_batch(actor, seed=i)
        remaining = 1 - 0.2 * i
        learning_rate = config.learning_rate * remaining
        metrics = learner.update(batch, learning_rate, remaining)
        counts = plain.update(batch, learning_rate, remaining)
        assert metrics["policy_steps"] == counts.policy_steps
        assert metrics["critic_steps"] == counts.critic_steps
        assert metrics["stopped"] == counts.stopped
        assert metrics["learning_rate"] == pytest.approx(learning_rate * plain.rate_scale, rel=1e-5)
        if algo == "r2vpo":
            assert metrics["penalty"] == pytest.approx(plain.penalty, rel=1e-5)
        steps += max(counts.policy_steps, counts.critic_steps)
        ends.add(counts.stopped)
    assert steps >= 100
    assert ends == {algo in ("espo", "sd_espo")}  # the stop is reached in each update
    return before, parameters_of(policy), parameters_of(plain.policy)


@pytest.mark.parametrize(
    ("algo", "changes", "action"),
    [(*case, BOX) for case in CASES]
    + [(*CASES[i], DISCRETE) for i in (1, 6, 9, 11, 12, 17, 18, 21, 22, 23, 24)],
)
def test_the_same_parameters_in_float64(algo: str, changes: dict, action: ActionSpec) -> None:
    before, ours, plain = learn_both_ways(algo, changes, make_policy(action).double())
    assert ours.dtype == torch.float64
    # Relative to how far the parameters moved: stricter than relative to their size.
    assert (ours - plain).norm() < 1e-5 * (plain - before).norm()


@pytest.mark.parametrize("algo", ["ppo", "espo", "r2vpo"])
def test_the_same_parameters_in_float32(algo: str) -> None:
    _, ours, plain = learn_both_ways(algo, ESPO if algo == "espo" else {}, make_policy())
    assert relative_difference(ours, plain) < 1e-5
