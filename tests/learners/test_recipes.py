import inspect
from itertools import product

import pytest
import torch
from torch import Tensor

from rlkit_es.core import masks, stops, surrogates
from rlkit_es.errors import UserError
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.recipes import MASKS, RECIPES, STOPS, SURROGATES, Recipe, fill_slots, find_recipe
from rlkit_es.types import PolicyStats

TABLE = {
    "ppo": ("clip", "keep_all", "never"),
    "espo": ("ratio", "keep_all", "ratio_deviation"),
    "sd_ppo": ("clip", "ratio_within", "never"),
    "sd_espo": ("ratio", "ratio_within", "ratio_deviation"),
}


def example() -> tuple[PolicyStats, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    stats = PolicyStats(0.3 * torch.randn(200, generator=g), 0.05 * torch.rand(200, generator=g))
    return stats, torch.randn(200, generator=g), torch.rand(200, generator=g) < 0.8


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str) -> None:
    recipe = find_recipe(name)
    assert (recipe.surrogate, recipe.mask, recipe.stop) == TABLE[name]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_filled_and_its_defaults_are_fields(name: str) -> None:
    recipe = find_recipe(name)
    slots = fill_slots(recipe, UpdateConfig(**recipe.defaults))
    assert slots.may_stop is (recipe.stop != "never")


@pytest.mark.parametrize("name", TABLE)
def test_the_slots_are_those_of_the_table(name: str) -> None:
    config = UpdateConfig(
        clip_range=0.1, dropout_threshold=0.3, deviation_threshold=0.2, deviation_statistic="median"
    )
    slots = fill_slots(find_recipe(name), config)
    stats, advantage, valid = example()
    surrogate = surrogates.clip(stats, advantage, 0.1) if "ppo" in name else stats.ratio * advantage
    mask = masks.ratio_within(stats, advantage, 0.3) if "sd" in name else torch.ones(200, dtype=torch.bool)
    stop = stops.ratio_deviation(stats, valid, 0.2, "median") if "espo" in name else torch.tensor(False)
    assert torch.equal(slots.surrogate(stats, advantage), surrogate)
    assert torch.equal(slots.mask(stats, advantage), mask)
    assert torch.equal(slots.stop(stats, valid), stop)


@pytest.mark.parametrize("recipe", TABLE)
@pytest.mark.parametrize(("surrogate", "mask", "stop"), [*product(SURROGATES, MASKS, STOPS)])
def test_the_config_can_replace_every_slot(recipe: str, surrogate: str, mask: str, stop: str) -> None:
    config = UpdateConfig(surrogate=surrogate, mask=mask, stop=stop)  # type: ignore[arg-type]
    slots = fill_slots(find_recipe(recipe), config)
    plain = fill_slots(Recipe(surrogate, mask, stop), UpdateConfig())
    stats, advantage, valid = example()
    assert torch.equal(slots.surrogate(stats, advantage), plain.surrogate(stats, advantage))
    assert torch.equal(slots.mask(stats, advantage), plain.mask(stats, advantage))
    assert torch.equal(slots.stop(stats, valid), plain.stop(stats, valid))
    assert slots.may_stop is plain.may_stop is (stop != "never")


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
