"""The settings of a run as options of the command line."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from rlkit_es.commands import settings
from rlkit_es.commands.settings import grouped_meanings, parse_config
from rlkit_es.errors import UserError
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.training.config import Config


def parsed(arguments: str, **defaults: Any) -> Config:
    return parse_config(
        arguments.split(), Config.for_algorithm(**{"algo": "ppo", **defaults}), prog="x", description="y"
    )


def test_every_field_has_a_meaning_in_one_group() -> None:
    names = [name for group in grouped_meanings().values() for name in group]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(Config))
    for group in grouped_meanings().values():
        for name, meaning in group.items():
            assert len(meaning) > 10, name
            assert "\n" not in meaning
    assert next(iter(grouped_meanings())) == "Experiment"
    assert {*settings._BEGINS} <= {*names}


@pytest.mark.parametrize("algo", RECIPES)
@pytest.mark.parametrize("env", ["Humanoid-v4", "ALE/Pong-v5"])
def test_no_arguments_leave_the_defaults(algo: str, env: str) -> None:
    defaults = Config.for_algorithm(algo, env=env, run_dir=Path("somewhere"), critic_epochs=3)
    assert parse_config([], defaults, prog="x", description="y") == defaults


def test_arguments_of_several_groups_take_the_place_of_defaults() -> None:
    config = parsed(
        "--env Hopper-v4 --hidden-sizes 3 4 --critic-epochs None --no-scale-actions --mask keep_all"
    )
    expected = {"env": "Hopper-v4", "hidden_sizes": (3, 4), "critic_epochs": None, "scale_actions": False}
    assert config == Config.for_algorithm("ppo", **expected, mask="keep_all")
    assert parsed("--hidden-sizes").hidden_sizes == ()
    assert parsed("--wandb None", wandb="mine").wandb is None


def test_a_value_that_cannot_be_used_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"^gamma "):
        parsed("--gamma 2")


def test_help_shows_groups_in_order_and_whole_paragraphs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exited:
        parsed("--help")
    assert exited.value.code == 0
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m|[│\n]", " ", capsys.readouterr().out).split())
    titles = [f"{title.lower()} options" for title in grouped_meanings()]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    for group in grouped_meanings().values():
        for meaning in group.values():
            assert meaning in text
