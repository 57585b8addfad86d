"""Settings that were given and that nothing in this recipe reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlkit_es.errors import UserError
from rlkit_es.learners.config import DEFAULTS, UpdateConfig, settings_of
from rlkit_es.learners.recipes import Recipe, find_recipe, slot_names
from rlkit_es.learners.slots import SLOTS

# Not `dropout_threshold`, which diagnostics of every recipe take.
_NAMES = [name for name in DEFAULTS if name != "dropout_threshold"]


def refuse_unread(algo: str, config: UpdateConfig, usual: Mapping[str, Any]) -> None:
    """What is otherwise than usual is read by a function in one of the slots.

    What is usual need not be: the defaults of a kind of environment are for all recipes.

    Args:
        algo: the recipe's name.
        config: the settings.
        usual: what they would be if nobody had said anything; left out: as `UpdateConfig` has it.

    Raises:
        UserError: something is not read; the message says what would read it.
    """
    recipe = find_recipe(algo)
    filled = slot_names(recipe, config)

    def given(name: str) -> bool:
        return bool(getattr(config, name) != usual.get(name, DEFAULTS[name]))

    if filled["stop"] == "never" and given("stop_when"):
        raise UserError(
            f"stop_when has no effect on {algo}, which never stops: leave it out, or choose a --stop"
        )
    for name in filter(given, _NAMES):
        readers = _readers(name)  # none: it is no hyperparameter of a slot
        if readers and not _is_read(name, filled, recipe, config):
            slots = ", ".join(f"{slot} {value}" for slot, value in filled.items())
            said = " or ".join(readers)
            raise UserError(f"{name} has no effect on {algo} ({slots}): leave it out; it is for {said}")


def _is_read(name: str, filled: Mapping[str, str], recipe: Recipe, config: UpdateConfig) -> bool:
    if name == "max_kl" and (recipe.step == "natural" or config.learning_rate_schedule == "adaptive_kl"):
        return True
    return any(name in settings_of(slot, value) for slot, value in filled.items())


def _readers(name: str) -> list[str]:
    functions = [(slot, value) for slot, table in SLOTS.items() for value in table]
    found = [f"--{slot} {value}" for slot, value in functions if name in settings_of(slot, value)]
    return [*found, *(["--learning-rate-schedule adaptive_kl", "a natural step"] if name == "max_kl" else [])]
