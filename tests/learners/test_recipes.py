import dataclasses
import inspect
from itertools import product

import pytest
import torch
from torch import Tensor
from update_examples import update_defaults

from rlkit_es.core import constraints, masks, stops, surrogates
from rlkit_es.errors import UserError
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.recipes import RECIPES, Recipe, fill_slots, find_recipe
from rlkit_es.learners.slots import CONSTRAINTS, MASKS, STOPS, SURROGATES
from rlkit_es.training.config import Config
from rlkit_es.types import PolicyStats

TABLE = {
    "ppo": ("clip", "keep_all", "never", "none", "adam"),
    "trpo": ("ratio", "keep_all", "never", "none", "natural"),
    "espo": ("ratio", "keep_all", "ratio_deviation", "none", "adam"),
    "sd_ppo": ("clip", "ratio_within", "never", "none", "adam"),
    "sd_trpo": ("ratio", "kl_within", "never", "none", "natural"),
    "sd_espo": ("ratio", "ratio_within", "ratio_deviation", "none", "adam"),
    "spo": ("spo", "keep_all", "never", "none", "adam"),
    "r2vpo": ("ratio", "keep_all", "never", "ratio_variance", "adam"),
    "ppo_adaptive": ("clip", "keep_all", "never", "none", "adam"),
}
ADAM = [name for name, (*_, step) in TABLE.items() if step == "adam"]
NATURAL = [name for name, (*_, step) in TABLE.items() if step == "natural"]


def example() -> tuple[PolicyStats, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    stats = PolicyStats(0.3 * torch.randn(200, generator=g), 0.05 * torch.rand(200, generator=g))
    return stats, torch.randn(200, generator=g), torch.rand(200, generator=g) < 0.8


def test_the_table() -> None:
    slots = {name: (r.surrogate, r.mask, r.stop, r.constraint, r.step) for name, r in RECIPES.items()}
    assert slots == TABLE


def test_the_defaults_that_recipes_share() -> None:
    config = Config(algo="ppo")
    shared = {
        "num_envs": 64,
        "rollout_steps": 32,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "hidden_sizes": (64, 64),
        "log_std_init": -0.75,
        "minibatch_size": 256,
        "epochs": 10,
        "critic_epochs": 10,
        "learning_rate": 3e-4,
        "learning_rate_schedule": "linear",
        "max_grad_norm": 0.5,
        "value_coefficient": 0.5,
        "entropy_coefficient": 0.0,
        "clip_range": 0.2,
        "dropout_threshold": 0.5,
        "deviation_threshold": 0.25,
        "constraint_limit": 0.1,
        "dual_learning_rate": 0.1,
        "initial_penalty": 1.0,
    }
    assert {name: getattr(config, name) for name in shared} == shared


def test_the_defaults_in_which_recipes_differ() -> None:
    defaults = {name: dict(recipe.defaults) for name, recipe in RECIPES.items() if recipe.defaults}
    horizon = {"num_envs": 16, "rollout_steps": 128, "horizon_growth": 2.0, "gae_lambda": 0.9}
    natural = {
        **horizon,
        "max_kl": 0.06,
        "max_kl_schedule": "linear",
        "learning_rate": 1e-3,
        "minibatch_size": 64,
    }
    critic = {"critic_learning_rate": 1e-3, "recompute_advantages": True}
    stopping = {**critic, "learning_rate": 1e-4, "log_std_learning_rate": 5e-4}
    clipped = {**horizon, **critic}
    assert defaults == {
        "ppo": clipped,
        "sd_ppo": clipped,
        "trpo": natural,
        "sd_trpo": {**natural, "mask_at": "trial"},
        "espo": stopping,
        "sd_espo": {**stopping, "dropout_threshold": 0.25},
        "ppo_adaptive": {"learning_rate_schedule": "adaptive_kl", "max_kl": 0.01},
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_filled_and_its_defaults_are_fields(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.defaults.keys() <= {field.name for field in dataclasses.fields(Config)}
    slots = fill_slots(recipe, UpdateConfig(**update_defaults(name)))
    assert slots.may_stop is (recipe.stop != "never")
    assert slots.may_drop is (recipe.mask != "keep_all")
    assert slots.step == recipe.step
    if recipe.constraint == "none":
        assert slots.constraint is None
    else:
        stats, *_ = example()
        assert slots.constraint is not None
        assert torch.equal(slots.constraint(stats), constraints.ratio_variance(stats))


@pytest.mark.parametrize("name", TABLE)
def test_the_slots_are_those_of_the_table(name: str) -> None:
    recipe = find_recipe(name)
    settings = {
        **update_defaults(name),
        "clip_range": 0.1,
        "dropout_threshold": 0.3,
        "dropout_kl": 0.02,
        "max_kl": 0.03,
        "deviation_threshold": 0.2,
        "deviation_statistic": "median",
    }
    slots = fill_slots(recipe, UpdateConfig(**settings))
    stats, advantage, valid = example()
    surrogate = {
        "clip": surrogates.clip(stats, advantage, 0.1),
        "spo": surrogates.spo(stats, advantage, 0.1),
        "ratio": stats.ratio * advantage,
    }[TABLE[name][0]]
    mask = {
        "ratio_within": masks.ratio_within(stats, advantage, 0.3),
        "kl_within": masks.kl_within(stats, advantage, 0.02),
        "keep_all": torch.ones(200, dtype=torch.bool),
    }[TABLE[name][1]]
    stop = stops.ratio_deviation(stats, valid, 0.2, "median") if "espo" in name else torch.tensor(False)
    assert torch.equal(slots.surrogate(stats, advantage), surrogate)
    assert torch.equal(slots.mask(stats, advantage), mask)
    assert torch.equal(slots.stop(stats, valid), stop)


@pytest.mark.parametrize("recipe", ADAM)
@pytest.mark.parametrize("constraint", ["none", *CONSTRAINTS])
def test_the_config_can_replace_every_slot(recipe: str, constraint: str) -> None:
    stats, advantage, valid = example()
    for surrogate, mask, stop in product(SURROGATES, MASKS, STOPS):
        config = UpdateConfig(surrogate=surrogate, mask=mask, stop=stop, constraint=constraint)  # type: ignore[arg-type]
        slots = fill_slots(find_recipe(recipe), config)
        plain = fill_slots(Recipe(surrogate, mask, stop, constraint), UpdateConfig())
        assert torch.equal(slots.surrogate(stats, advantage), plain.surrogate(stats, advantage))
        assert torch.equal(slots.mask(stats, advantage), plain.mask(stats, advantage))
        assert torch.equal(slots.stop(stats, valid), plain.stop(stats, valid))
        if constraint == "none":
            assert slots.constraint is plain.constraint is None
        else:
            assert slots.constraint is not None
            assert torch.equal(slots.constraint(stats), CONSTRAINTS[constraint](stats))
        assert slots.may_stop is plain.may_stop is (stop != "never")
        assert slots.may_drop is plain.may_drop is (mask != "keep_all")


@pytest.mark.parametrize("recipe", NATURAL)
@pytest.mark.parametrize(("surrogate", "mask"), [*product(SURROGATES, MASKS)])
def test_the_config_can_replace_surrogate_and_mask_of_a_natural_step(
    recipe: str, surrogate: str, mask: str
) -> None:
    config = UpdateConfig(surrogate=surrogate, mask=mask, mask_at="trial")  # type: ignore[arg-type]
    slots, plain = (
        fill_slots(find_recipe(recipe), config),
        fill_slots(Recipe(surrogate, mask), UpdateConfig()),
    )
    stats, advantage, _ = example()
    assert torch.equal(slots.surrogate(stats, advantage), plain.surrogate(stats, advantage))
    assert torch.equal(slots.mask(stats, advantage), plain.mask(stats, advantage))
    assert slots.may_drop is (mask != "keep_all")
    assert slots.step == "natural"


def test_what_is_scheduled_takes_the_place_of_the_setting_where_the_slot_has_it() -> None:
    slots = fill_slots(find_recipe("sd_espo"), UpdateConfig(deviation_threshold=0.2))
    stats, advantage, valid = example()
    deviation = float((stats.ratio - 1).abs()[valid].mean())
    for threshold in (0.5 * deviation, 2 * deviation):
        scheduled = {"deviation_threshold": torch.tensor(threshold)}
        stop = slots.stop(stats, valid, scheduled=scheduled)
        assert torch.equal(stop, stops.ratio_deviation(stats, valid, threshold))
        assert torch.equal(
            slots.surrogate(stats, advantage, scheduled=scheduled), slots.surrogate(stats, advantage)
        )
        assert torch.equal(slots.mask(stats, advantage, scheduled=scheduled), slots.mask(stats, advantage))
    assert torch.equal(slots.stop(stats, valid, scheduled={}), slots.stop(stats, valid))


def test_hyperparameters_are_bound_by_name() -> None:
    config = UpdateConfig(mask="kl_below", stop="mean_kl", surrogate="spo", dropout_rate=0.7, max_kl=0.03)
    slots = fill_slots(find_recipe("ppo"), config)
    stats, advantage, valid = example()
    keep = masks.kl_below(stats, advantage, dropout_rate=0.7, max_kl=0.03)
    assert 0 < keep.sum() < len(keep)
    assert torch.equal(slots.mask(stats, advantage), keep)
    assert torch.equal(slots.stop(stats, valid), stops.mean_kl(stats, valid, max_kl=0.03))
    expected = surrogates.spo(stats, advantage, clip_range=config.clip_range)
    assert torch.equal(slots.surrogate(stats, advantage), expected)


@pytest.mark.parametrize("table", [SURROGATES, MASKS, STOPS])
def test_every_hyperparameter_of_a_slot_is_a_field_and_every_slot_function_is_listed(table) -> None:
    for name, function in table.items():
        assert function.__name__ == name
        for hyperparameter in list(inspect.signature(function).parameters)[2:]:
            assert hasattr(UpdateConfig(), hyperparameter)


def test_every_constraint_is_listed_and_takes_the_stats_alone() -> None:
    for name, function in CONSTRAINTS.items():
        assert function.__name__ == name
        assert list(inspect.signature(function).parameters) == ["stats"]


@pytest.mark.parametrize("wrong", ["pp0", "PPO", "esp", "sd-ppo", "SD_ESPO"])
def test_an_unknown_algorithm_is_refused_with_the_closest_name(wrong: str) -> None:
    closest = {"pp0": "ppo", "PPO": "ppo", "esp": "espo", "sd-ppo": "sd_ppo", "SD_ESPO": "sd_espo"}[wrong]
    with pytest.raises(UserError) as caught:
        find_recipe(wrong)
    message = str(caught.value)
    assert message.startswith(f"unknown algorithm {wrong!r}; did you mean {closest}")
    assert "\n" not in message


def test_an_algorithm_like_no_other_is_refused_with_all_names() -> None:
    with pytest.raises(UserError) as caught:
        find_recipe("qqqqqq")
    assert all(name in str(caught.value) for name in RECIPES)
