import dataclasses
import inspect
import math
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from update_examples import (
    ADAM,
    BOX,
    DISCRETE,
    actor_size,
    make_batch,
    make_config,
    make_config_for,
    make_learner,
    make_policy,
    parameters_after,
    parameters_of,
)

from rlkit_es.errors import UserError
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.slots import MASKS, SLOTS, STOPS, SURROGATES, names
from rlkit_es.types import ActionSpec

FIELDS = {field.name: get_type_hints(UpdateConfig)[field.name] for field in dataclasses.fields(UpdateConfig)}

# (field, another value, the recipe and the other fields for which it matters)
FAST: dict[str, Any] = {"learning_rate": 3e-3}
STOPPING: dict[str, Any] = FAST | {"deviation_threshold": 0.1}
DROPPING: dict[str, Any] = FAST | {"dropout_threshold": 0.05}
BACKTRACKING: dict[str, Any] = {"max_kl": 2.0, "cg_damping": 0.0}  # the full step is too long
MATTERS: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("minibatch_size", 24, "ppo", {}),
    ("epochs", 3, "ppo", {}),
    ("critic_epochs", 3, "ppo", {}),
    ("critic_epochs", None, "espo", STOPPING),
    ("recompute_advantages", True, "ppo", {}),
    ("common_gradient", 0.1, "ppo", {}),
    ("learning_rate", 2e-3, "ppo", {}),
    ("critic_learning_rate", 2e-3, "ppo", {}),
    ("log_std_learning_rate", 2e-3, "ppo", {}),
    ("adam_epsilon", 1e-3, "ppo", {}),
    ("max_grad_norm", 1e-3, "ppo", {}),
    ("max_grad_norm", math.inf, "ppo", {}),
    ("value_coefficient", 0.1, "ppo", {}),
    ("entropy_coefficient", 0.01, "ppo", {}),
    ("advantage_normalization", "batch", "ppo", {}),
    ("advantage_normalization", "none", "ppo", {}),
    ("clip_range", 0.05, "ppo", FAST),
    ("clip_range", 0.05, "ppo", FAST | {"surrogate": "spo"}),
    ("dropout_threshold", 0.05, "sd_ppo", FAST),
    ("dropout_threshold", 0.05, "espo", FAST | {"mask": "ratio_log_symmetric"}),
    ("dropout_rate", 0.01, "ppo", FAST | {"mask": "kl_below"}),
    ("max_kl", 0.0005, "ppo", FAST | {"mask": "kl_below"}),
    ("max_kl", 0.0005, "ppo", FAST | {"stop": "mean_kl"}),
    ("deviation_threshold", 0.05, "espo", FAST),
    ("deviation_statistic", "median", "espo", STOPPING),
    ("stop_when", "before", "espo", STOPPING | {"deviation_threshold": 0.13}),
    ("learning_rate_schedule", "constant", "ppo", FAST),
    ("learning_rate_schedule", "adaptive_kl", "ppo", FAST),
    ("max_kl", 0.0005, "ppo_adaptive", FAST),
    ("mask_at", "trial", "sd_ppo", DROPPING),
    ("mask_value", True, "sd_ppo", DROPPING),
    ("mask_value", True, "sd_trpo", {}),
    ("deviation_threshold_schedule", "linear", "espo", STOPPING),
    ("constraint", "ratio_variance", "ppo", FAST),
    ("constraint", "kl", "r2vpo", FAST),
    ("constraint", "none", "r2vpo", FAST),
    ("constraint_limit", 0.001, "r2vpo", FAST),
    ("dual_learning_rate", 1.0, "r2vpo", FAST),
    ("initial_penalty", 0.0, "r2vpo", FAST),
    ("max_kl", 0.001, "trpo", {}),
    ("max_kl_schedule", "linear", "trpo", {}),
    ("max_kl_schedule", "linear", "sd_trpo", {}),
    ("learning_rate", 2e-3, "trpo", {}),
    ("critic_learning_rate", 2e-3, "trpo", {}),
    ("adam_epsilon", 1e-3, "trpo", {}),
    ("max_grad_norm", 1e-3, "trpo", {}),
    ("value_coefficient", 0.1, "trpo", {"max_grad_norm": 0.01}),
    ("minibatch_size", 24, "trpo", {}),
    ("critic_epochs", 1, "trpo", {}),
    ("advantage_normalization", "none", "trpo", {}),
    ("cg_iterations", 2, "trpo", {}),
    ("cg_damping", 0.01, "trpo", {}),
    ("line_search_steps", 1, "trpo", BACKTRACKING),
    ("line_search_shrink", 0.5, "trpo", BACKTRACKING),
    ("fisher_fraction", 0.5, "trpo", {}),
    ("dropout_rate", 0.5, "sd_trpo", {"mask": "kl_below"}),
    ("dropout_kl", 0.01, "sd_trpo", {}),
    ("dropout_kl", 0.0005, "ppo", FAST | {"mask": "kl_within"}),
    ("dropout_threshold", 0.05, "sd_trpo", {"mask": "ratio_within"}),
    ("mask", "ratio_above", "sd_trpo", {"dropout_threshold": 0.05}),
    ("mask", "keep_all", "sd_trpo", {}),
    ("surrogate", "spo", "trpo", {"max_kl": 2.0}),
    *(("surrogate", name, "ppo", FAST) for name in SURROGATES if name != "clip"),
    *(("mask", name, "ppo", FAST | {"dropout_threshold": 0.05, "max_kl": 0.001}) for name in MASKS),
    *(("stop", name, "sd_espo", STOPPING | {"max_kl": 0.001}) for name in STOPS),
]
NO_CHANGE = {
    # What the recipe has.
    ("mask", "keep_all", "ppo"),
    ("stop", "ratio_deviation", "sd_espo"),
    # The learning rate of this update is given.
    ("learning_rate_schedule", "constant", "ppo"),
}


def test_no_field_is_forgotten() -> None:
    assert {name for name, *_ in MATTERS} == set(FIELDS)


@pytest.mark.parametrize(("name", "value", "algo", "base"), MATTERS)
def test_every_field_changes_the_update(name: str, value: Any, algo: str, base: dict[str, Any]) -> None:
    epochs = {"epochs": 2} if algo in ADAM else {}
    default = make_config_for(algo, **({"critic_epochs": 2} | epochs | base))
    assert getattr(default, name) != value
    changed = dataclasses.replace(default, **{name: value})
    one, other = (parameters_after(algo, config, remaining=0.7) for config in (default, changed))
    assert torch.equal(one, other) is ((name, value, algo) in NO_CHANGE)


@pytest.mark.parametrize("action", [BOX, DISCRETE], ids=["box", "discrete"])
def test_the_entropy_bonus_raises_the_entropy(action: ActionSpec) -> None:
    entropy = []
    for coefficient in (0.0, 1.0):
        policy = make_policy(action)
        batch = make_batch(policy)
        make_learner("ppo", make_config(entropy_coefficient=coefficient), policy).update(batch, 3e-3)
        entropy.append(policy.distribution.entropy(policy.actor(batch.observation)).mean())
    assert entropy[1] > entropy[0]


@pytest.mark.parametrize("rate", [1e-4, 1e-3])
def test_the_critics_learning_rate_keeps_its_proportion_to_the_policys(rate: float) -> None:
    """The first step of Adam moves a parameter by the learning rate, whatever the gradient."""
    policy = make_policy()
    batch, before, actor = make_batch(policy), parameters_of(policy), actor_size(policy)
    config = UpdateConfig(
        minibatch_size=256,
        epochs=1,
        critic_epochs=1,
        learning_rate=1e-3,
        critic_learning_rate=5e-3,
        adam_epsilon=1e-12,
    )
    learner = make_learner("ppo", config, policy)
    learner.update(batch, rate)
    moved = (learner.state.parameters - before).abs()
    assert moved[:actor].max() == pytest.approx(rate, rel=1e-2)
    assert moved[actor:].max() == pytest.approx(5 * rate, rel=1e-2)


# Numbers that may be 0.
FROM_ZERO = (
    "value_coefficient",
    "entropy_coefficient",
    "dual_learning_rate",
    "initial_penalty",
    "cg_damping",
    "common_gradient",
)


def bad_values(name: str) -> list[Any]:
    if FIELDS[name] is bool:
        return [None, 0, 1, 1.0, "yes", "True", "", [], object(), math.nan, "two\nlines"]
    optional = type(None) in get_args(FIELDS[name])
    literal = name in SLOTS or any(get_origin(t) is Literal for t in (FIELDS[name], *get_args(FIELDS[name])))
    values: list[Any] = [True, [], object()] + ([] if optional else [None])
    if literal:
        return [*values, "nonsense", "", 3]
    values += [-1, -1e-9, math.nan, -math.inf, "3", "", "two\nlines"]
    if name not in FROM_ZERO:
        values += [0, 0.0]
    if int in (FIELDS[name], *get_args(FIELDS[name])):
        values += [2.5, 64.0, math.inf]
    return values


@pytest.mark.parametrize("name", FIELDS)
def test_bad_values_are_refused_in_one_line_that_names_the_field(name: str) -> None:
    for value in bad_values(name):
        with pytest.raises(UserError) as caught:
            UpdateConfig(**{name: value})
        message = str(caught.value)
        assert message.startswith(f"{name} must be ")
        assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 1.5),
        ("learning_rate", math.inf),
        ("critic_learning_rate", 1.5),
        ("adam_epsilon", 2),
        ("clip_range", 1.0),
        ("value_coefficient", math.inf),
        ("entropy_coefficient", 1e7),
        ("dual_learning_rate", 1e7),
        ("initial_penalty", 1001.0),
        ("cg_damping", math.inf),
        ("line_search_shrink", 1.0),
        ("fisher_fraction", 1.001),
        ("common_gradient", 1.001),
    ],
)
def test_values_that_are_too_large_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^{name} must be a number .*at most"):
        UpdateConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", math.inf),
        ("dropout_threshold", math.inf),
        ("dropout_rate", math.inf),
        ("dropout_kl", math.inf),
        ("deviation_threshold", math.inf),
        ("max_kl", math.inf),
        ("value_coefficient", 0),
        ("entropy_coefficient", 0.0),
        ("critic_epochs", None),
        ("critic_learning_rate", None),
        ("minibatch_size", 1),
        ("epochs", 1),
        ("learning_rate", 1),
        ("mask_value", True),
        ("mask_value", False),
        ("constraint_limit", 1e6),
        ("constraint_limit", 1e-9),
        ("dual_learning_rate", 0),
        ("initial_penalty", 0.0),
        ("initial_penalty", 1000.0),
        ("cg_iterations", 1),
        ("cg_damping", 0.0),
        ("line_search_steps", 1),
        ("line_search_shrink", 0.99),
        ("fisher_fraction", 1),
        ("common_gradient", 0),
        ("common_gradient", 1),
        ("fisher_fraction", 1e-9),
        ("constraint", None),
        ("constraint", "none"),
    ],
)
def test_edges_are_accepted(name: str, value: Any) -> None:
    assert getattr(UpdateConfig(**{name: value}), name) == value


def test_the_message_lists_the_choices() -> None:
    with pytest.raises(UserError) as caught:
        UpdateConfig(surrogate="clipped")  # type: ignore[arg-type]
    assert str(caught.value) == "surrogate must be one of ratio, ratio_minus_one, clip, spo, got 'clipped'"


@pytest.mark.parametrize("slot", SLOTS)
def test_the_description_of_a_slot_names_the_functions_there_are(slot: str) -> None:
    source = inspect.getsource(UpdateConfig)
    description = source.split(f"    {slot}: str | None = None\n")[1].split('"""')[1]
    assert set(names(slot)) <= set(re.findall(r"\w+", description))


def test_a_config_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        UpdateConfig().epochs = 3  # type: ignore[misc]
