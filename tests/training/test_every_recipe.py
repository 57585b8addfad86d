"""Every recipe of the table, trained for two small iterations with continuous and with discrete actions."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import pytest
import torch

from rlkit_es.learners.recipes import RECIPES
from rlkit_es.runs.experiment import History
from rlkit_es.training.callbacks import Hooks
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer

SPEED = {"wall_seconds", "steps_per_second"}
DIAGNOSTICS = {
    *("ratio_deviation", "ratio_bias", "ratio_min", "ratio_max", "approx_kl", "entropy"),
    *("surrogate_variance", "surrogate_variance_within", "surrogate_variance_bound"),
}
EVERYWHERE = {
    *("env_steps", "iteration", "episode_return_mean", "episode_length_mean", "explained_variance"),
    *("policy_loss", "value_loss", "kept_fraction", "grad_norm", "policy_steps", "critic_steps"),
    *("learning_rate", "gamma", *DIAGNOSTICS, *SPEED),
}
# No episode of Pendulum has ended yet.
UNKNOWN = {"Pendulum-v1": {"episode_return_mean", "episode_length_mean"}, "CartPole-v1": set()}
ROUNDING = 1e-5

every_recipe = pytest.mark.parametrize("algo", RECIPES)
both_kinds_of_action = pytest.mark.parametrize("env", UNKNOWN)


class Outcome(NamedTuple):
    metrics: list[dict[str, float]]
    before: dict[str, torch.Tensor]
    parameters: dict[str, torch.Tensor]


def train(algo: str, env: str) -> Outcome:
    passes = {"critic_epochs": 2} if RECIPES[algo].step == "natural" else {"epochs": 3}
    small = {
        "num_envs": 4,
        "rollout_steps": 32,
        "minibatch_size": 32,
        "hidden_sizes": (16,),
        "compile": "off",
    }
    # A rate at which the policy goes somewhere within two iterations.
    moving = {"learning_rate": 3e-3, "seed": 2}
    trainer, history = Trainer(Config.for_algorithm(algo, env=env, **small, **passes, **moving)), History()
    before = {name: x.clone() for name, x in trainer.policy.state_dict().items()}
    trainer.train(2 * 128 - 40, Hooks([history]))
    trainer.close()
    return Outcome(history.metrics, before, trainer.policy.state_dict())


outcome = functools.cache(train)


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


@every_recipe
@both_kinds_of_action
def test_the_metrics_are_finite_and_of_the_same_names_in_every_iteration(algo: str, env: str) -> None:
    first, second = outcome(algo, env).metrics
    assert list(first) == list(second)
    for metrics in (first, second):
        assert {name for name, value in metrics.items() if not math.isfinite(value)} <= UNKNOWN[env]
    own = {"line_search_trials", "line_search_failed"} if RECIPES[algo].step == "natural" else {"stopped"}
    own |= set() if RECIPES[algo].constraint == "none" else {"penalty"}
    assert set(first) == EVERYWHERE | own


@every_recipe
@both_kinds_of_action
def test_one_seed_fixes_every_bit(algo: str, env: str) -> None:
    once, again = outcome(algo, env), train(algo, env)
    for row, row_again in zip(once.metrics, again.metrics, strict=True):
        assert [k for k in row.keys() - SPEED if not same(row[k], row_again[k])] == []
    assert once.parameters.keys() == again.parameters.keys()
    assert all(torch.equal(x, again.parameters[name]) for name, x in once.parameters.items())


@every_recipe
@both_kinds_of_action
def test_policy_and_critic_are_trained(algo: str, env: str) -> None:
    _, before, parameters = outcome(algo, env)
    unmoved = [name for name, x in before.items() if torch.equal(x, parameters[name])]
    assert unmoved == []


@every_recipe
@both_kinds_of_action
def test_the_diagnostics_keep_their_inequalities(algo: str, env: str) -> None:
    for metrics in outcome(algo, env).metrics:
        assert 0 < metrics["ratio_min"] <= 1 + metrics["ratio_bias"] + ROUNDING
        assert 1 + metrics["ratio_bias"] - ROUNDING <= metrics["ratio_max"]
        assert metrics["ratio_deviation"] >= abs(metrics["ratio_bias"]) - ROUNDING
        assert (
            metrics["ratio_deviation"] <= max(1 - metrics["ratio_min"], metrics["ratio_max"] - 1) + ROUNDING
        )
        assert metrics["approx_kl"] > 0
        assert metrics["surrogate_variance"] > 0
        bound = metrics["surrogate_variance_bound"]
        assert 0 <= metrics["surrogate_variance_within"] <= bound * (1 + ROUNDING)
        assert 0 < metrics["kept_fraction"] <= 1


@pytest.mark.parametrize("algo", [name for name, recipe in RECIPES.items() if recipe.mask == "keep_all"])
@both_kinds_of_action
def test_without_a_mask_no_sample_is_dropped(algo: str, env: str) -> None:
    assert [metrics["kept_fraction"] for metrics in outcome(algo, env).metrics] == [1, 1]


@every_recipe
@both_kinds_of_action
def test_a_step_ends_within_what_governs_it(algo: str, env: str) -> None:
    recipe, config = RECIPES[algo], Config.for_algorithm(algo)
    for metrics in outcome(algo, env).metrics:
        if recipe.step == "natural":
            assert metrics["approx_kl"] <= config.max_kl * (1 + ROUNDING)
            assert metrics["policy_steps"] + metrics["line_search_failed"] == 1
            assert 1 <= metrics["line_search_trials"] <= config.line_search_steps
        else:
            assert 1 <= metrics["policy_steps"] <= 3 * 4
            assert metrics["stopped"] in ((0,) if recipe.stop == "never" else (0, 1))
        if recipe.constraint != "none":
            assert metrics["penalty"] >= 0
