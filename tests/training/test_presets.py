from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rlkit_es import Algorithm
from rlkit_es.errors import UserError
from rlkit_es.learners.recipes import RECIPES, find_recipe, slot_names
from rlkit_es.training.config import Config
from rlkit_es.training.presets import PRESETS, preset_settings

CASES = [(preset, algo) for preset, by_algorithm in PRESETS.items() for algo in by_algorithm]
OTHERS = [(preset, algo) for preset in PRESETS for algo in RECIPES if (preset, algo) not in CASES]
FIELDS = {f.name for f in dataclasses.fields(Config)}

# Another valid value for whatever a preset may set.
OVERRIDES: dict[str, Any] = {
    "common_gradient": 0.5,
    "num_envs": 2,
    "env_groups": 3,
    "rollout_steps": 4096,
    "epochs": 3,
    "critic_epochs": 4,
    "learning_rate": 2e-4,
    "critic_learning_rate": 1e-3,
    "log_std_learning_rate": 1e-3,
    "recompute_advantages": True,
    "value_coefficient": 1.0,
    "log_std_init": -1.0,
    "total_steps": 123,
    "minibatch_size": 128,
    "deviation_threshold": 0.1,
    "dropout_threshold": 0.3,
    "hidden_sizes": (8, 8),
    "max_grad_norm": 1.0,
    "horizon_growth": 3.0,
    "gae_lambda": 0.9,
    "max_kl": 0.03,
    "cg_iterations": 5,
    "cg_damping": 0.2,
    "fisher_fraction": 0.5,
    "line_search_shrink": 0.7,
    "observation_clip": 7.0,
    "mask": "kl_below",
}


def overriding(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if name in ("learning_rate_schedule", "max_kl_schedule"):
        return "constant" if value == "linear" else "linear"
    return OVERRIDES[name]


@pytest.mark.parametrize(("preset", "algo"), CASES)
def test_each_setting_of_a_preset_is_in_the_configuration(preset: str, algo: str) -> None:
    settings = PRESETS[preset][algo]
    assert settings
    assert set(settings) <= FIELDS - {"algo", "env", "seed", "run_dir"}
    config = Config.for_algorithm(algo, preset=preset)
    assert {name: getattr(config, name) for name in settings} == settings
    assert preset_settings(preset, algo) == settings


@pytest.mark.parametrize(("preset", "algo"), CASES)
def test_what_a_preset_leaves_open_is_as_without_it(preset: str, algo: str) -> None:
    config, plain = Config.for_algorithm(algo, preset=preset), Config.for_algorithm(algo)
    for name in FIELDS - set(PRESETS[preset][algo]):
        assert getattr(config, name) == getattr(plain, name), name


@pytest.mark.parametrize(("preset", "algo"), CASES)
def test_overrides_win_over_the_preset(preset: str, algo: str) -> None:
    config = Config.for_algorithm(algo, preset=preset)
    for name, value in PRESETS[preset][algo].items():
        other = overriding(name, value)
        assert other != value
        expected = dataclasses.replace(config, **{name: other})
        assert Config.for_algorithm(algo, preset=preset, **{name: other}) == expected


@pytest.mark.parametrize(("preset", "algo"), CASES)
def test_the_preset_wins_over_the_recipe(preset: str, algo: str) -> None:
    both = RECIPES[algo].defaults.keys() & PRESETS[preset][algo].keys()
    config = Config.for_algorithm(algo, preset=preset)
    for name in both:
        assert getattr(config, name) == PRESETS[preset][algo][name]


def test_some_preset_and_recipe_disagree() -> None:
    # Or the property above would say nothing.
    assert any(
        RECIPES[algo].defaults.get(name, value) != value
        for preset, algo in CASES
        for name, value in PRESETS[preset][algo].items()
    )


@pytest.mark.parametrize(("preset", "algo"), CASES)
def test_minibatches_divide_the_batch(preset: str, algo: str) -> None:
    config = Config.for_algorithm(algo, preset=preset)
    assert config.batch_size % config.minibatch_size == 0


# What the papers and their released code say, whatever the library's defaults are.
EITHER: dict[str, Any] = {
    "num_envs": 1,
    "gamma": 0.99,
    "log_std_init": 0.0,
    "scale_actions": False,
    "observation_clip": 10.0,
    "total_steps": 10_000_000,
}
ADAM = EITHER | {
    "rollout_steps": 2048,
    "hidden_sizes": (64, 64),
    "epochs": 10,
    "critic_epochs": None,
    "learning_rate": 3e-4,
    "critic_learning_rate": None,
    "log_std_learning_rate": None,
    "learning_rate_schedule": "linear",
    "adam_epsilon": 1e-5,
    "max_grad_norm": 0.5,
    "gae_lambda": 0.95,
    "value_coefficient": 0.25,
    "recompute_advantages": False,
    "common_gradient": 1.0,
}
STOPPING = ADAM | {
    "surrogate": "ratio",
    "stop": "ratio_deviation",
    "deviation_threshold": 0.25,
    "deviation_threshold_schedule": "constant",
}
NATURAL = EITHER | {
    "rollout_steps": 1024,
    "hidden_sizes": (32, 32),
    "minibatch_size": 64,
    "critic_epochs": 5,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "constant",
    "max_grad_norm": float("inf"),
    "horizon_growth": 1.0,
    "gae_lambda": 0.98,
    "max_kl": 0.01,
    "max_kl_schedule": "constant",
    "cg_iterations": 10,
    "cg_damping": 0.1,
    "fisher_fraction": 0.2,
    "line_search_shrink": 0.5,
    "mask": "keep_all",
}
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("reference-espo", "espo"): STOPPING | {"mask": "keep_all", "minibatch_size": 64},
    ("reference-espo", "ppo"): ADAM | {"surrogate": "clip", "clip_range": 0.2, "minibatch_size": 64},
    ("reference-sdpo", "ppo"): ADAM | {"surrogate": "clip", "clip_range": 0.2, "minibatch_size": 512},
    ("reference-sdpo", "sd_ppo"): ADAM
    | {
        "surrogate": "clip",
        "clip_range": 0.2,
        "mask": "ratio_within",
        "mask_value": True,
        "dropout_threshold": 0.5,
        "minibatch_size": 512,
    },
    ("reference-sdpo", "espo"): STOPPING | {"mask": "keep_all", "minibatch_size": 64},
    ("reference-sdpo", "sd_espo"): STOPPING
    | {"mask": "ratio_within", "dropout_threshold": 0.25, "minibatch_size": 2048, "epochs": 320},
    ("reference-sdpo", "trpo"): NATURAL,
    ("reference-sdpo", "sd_trpo"): NATURAL,
}


@pytest.mark.parametrize(("preset", "algo"), CASES)
def test_a_preset_is_what_was_published(preset: str, algo: str) -> None:
    config = Config.for_algorithm(algo, preset=preset)
    set_to = vars(config) | slot_names(find_recipe(algo), config)
    published = PUBLISHED[preset, algo]
    assert {name: set_to[name] for name in published} == published


def test_the_two_papers_agree_on_espo() -> None:
    first, second = (Config.for_algorithm("espo", preset=f"reference-{paper}") for paper in ("espo", "sdpo"))
    assert first == second


def test_sd_espo_takes_as_many_steps_as_espo_with_the_full_batch_in_each() -> None:
    espo, sd_espo = (Config.for_algorithm(algo, preset="reference-sdpo") for algo in ("espo", "sd_espo"))
    assert sd_espo.minibatch_size == sd_espo.batch_size == espo.batch_size
    assert sd_espo.epochs == espo.epochs * espo.batch_size // espo.minibatch_size


@pytest.mark.parametrize(("preset", "algo"), OTHERS)
def test_a_preset_for_other_algorithms_names_them(preset: str, algo: str) -> None:
    with pytest.raises(
        UserError, match=rf"^preset {preset} has no settings for {algo}; it is for "
    ) as refused:
        Config.for_algorithm(algo, preset=preset)
    assert all(known in str(refused.value) for known in PRESETS[preset])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("preset", ["nonsense", "", "reference_espo", "ESPO"])
def test_an_unknown_preset_is_refused(preset: str) -> None:
    with pytest.raises(UserError, match=rf"^unknown preset '{preset}'; .*reference-espo"):
        Config.for_algorithm("espo", preset=preset)


@pytest.mark.parametrize(("preset", "algo"), CASES)
def test_algorithms_take_presets(preset: str, algo: str) -> None:
    (found,) = (c for c in Algorithm.__subclasses__() if c.recipe == algo)
    agent = found("CartPole-v1", preset=preset, seed=3, compile="off")
    agent.close()
    assert agent.config == Config.for_algorithm(algo, preset=preset, env="CartPole-v1", seed=3, compile="off")


def test_an_algorithm_refuses_a_preset_that_is_not_its_own() -> None:
    (trpo,) = (c for c in Algorithm.__subclasses__() if c.recipe == "trpo")
    with pytest.raises(UserError, match="has no settings for trpo"):
        trpo("CartPole-v1", preset="reference-espo")
