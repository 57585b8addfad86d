import dataclasses
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from update_examples import (
    BOX,
    DISCRETE,
    actor_size,
    make_batch,
    make_config,
    make_learner,
    make_policy,
    parameters_of,
    updated,
)

from rlkit_es.errors import UserError
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.recipes import MASKS, STOPS, SURROGATES
from rlkit_es.types import ActionSpec

FIELDS = {field.name: get_type_hints(UpdateConfig)[field.name] for field in dataclasses.fields(UpdateConfig)}

# Fields that the update does not read, and who does.
ELSEWHERE = {"learning_rate_schedule": "the trainer computes the learning rate of each update from it"}

# (field, another value, the recipe and the other fields for which it matters)
FAST: dict[str, Any] = {"learning_rate": 3e-3}
STOPPING: dict[str, Any] = FAST | {"deviation_threshold": 0.1}
MATTERS: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("minibatch_size", 24, "ppo", {}),
    ("epochs", 3, "ppo", {}),
    ("critic_epochs", 3, "ppo", {}),
    ("critic_epochs", None, "espo", STOPPING),
    ("learning_rate", 2e-3, "ppo", {}),
    ("critic_learning_rate", 2e-3, "ppo", {}),
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
    *(("surrogate", name, "ppo", FAST) for name in SURROGATES if name != "clip"),
    *(("mask", name, "ppo", FAST | {"dropout_threshold": 0.05, "max_kl": 0.001}) for name in MASKS),
    *(("stop", name, "sd_espo", STOPPING | {"max_kl": 0.001}) for name in STOPS),
]
NO_CHANGE = {("mask", "keep_all", "ppo"), ("stop", "ratio_deviation", "sd_espo")}  # what the recipe has


def test_no_field_is_forgotten() -> None:
    assert {name for name, *_ in MATTERS} | set(ELSEWHERE) == set(FIELDS)


@pytest.mark.parametrize(("name", "value", "algo", "base"), MATTERS)
def test_every_field_changes_the_update(name: str, value: Any, algo: str, base: dict[str, Any]) -> None:
    changes = {"minibatch_size": 16, "epochs": 2, "critic_epochs": 2} | base
    default = UpdateConfig(**changes)
    assert getattr(default, name) != value
    one, _ = updated(algo, default)
    other, _ = updated(algo, dataclasses.replace(default, **{name: value}))
    assert torch.equal(one.state.parameters, other.state.parameters) is ((name, value, algo) in NO_CHANGE)


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


def bad_values(name: str) -> list[Any]:
    optional = type(None) in get_args(FIELDS[name])
    literal = any(get_origin(t) is Literal for t in (FIELDS[name], *get_args(FIELDS[name])))
    values: list[Any] = [True, [], object()] + ([] if optional else [None])
    if literal:
        return [*values, "nonsense", "", 3]
    values += [-1, -1e-9, math.nan, -math.inf, "3", "", "two\nlines"]
    if name not in ("value_coefficient", "entropy_coefficient"):
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
        ("deviation_threshold", math.inf),
        ("max_kl", math.inf),
        ("value_coefficient", 0),
        ("entropy_coefficient", 0.0),
        ("critic_epochs", None),
        ("critic_learning_rate", None),
        ("minibatch_size", 1),
        ("epochs", 1),
        ("learning_rate", 1),
    ],
)
def test_edges_are_accepted(name: str, value: Any) -> None:
    assert getattr(UpdateConfig(**{name: value}), name) == value


def test_the_message_lists_the_choices() -> None:
    with pytest.raises(UserError) as caught:
        UpdateConfig(surrogate="clipped")  # type: ignore[arg-type]
    assert str(caught.value) == "surrogate must be one of ratio, clip, spo, got 'clipped'"


def test_the_choices_are_the_functions_there_are() -> None:
    for name, table in (("surrogate", SURROGATES), ("mask", MASKS), ("stop", STOPS)):
        choices = [c for t in get_args(FIELDS[name]) for c in get_args(t)]
        assert sorted(choices) == sorted(table)


def test_a_config_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        UpdateConfig().epochs = 3  # type: ignore[misc]
