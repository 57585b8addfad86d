"""The settings of a run as options of the command line."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlkit_es import run
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


@pytest.mark.parametrize(
    "kwargs", [{}, {"g": 5.0}, {"a": "x y", "deep": {"b": [1, None, True]}, "huge": 1e300, "below": -1}]
)
def test_arguments_of_the_environment_are_a_json_object(kwargs: dict[str, Any]) -> None:
    expected = Config.for_algorithm("ppo", env="Pendulum-v1", env_kwargs=kwargs)
    defaults = dataclasses.replace(expected, env_kwargs={})
    text = json.dumps(kwargs)
    for arguments in (["--env-kwargs", text], [f"--env-kwargs={text}"], ["--env_kwargs", text]):
        assert parse_config(arguments, defaults, prog="x", description="y") == expected
    assert parse_config([], expected, prog="x", description="y") == expected


@pytest.mark.parametrize(
    "text", ["", "5", "null", "[1]", "g:5", "{'g': 5}", '{"g": 5', "{g: 5}", '"g"', "None", '{"a":' * 10_000]
)
def test_what_is_no_json_object_is_one_line_with_exit_code_2(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--algo", "ppo", "--env", "Pendulum-v1", "--env-kwargs", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --env-kwargs must be a JSON object, '{\"g\": 5.0}' say, got ")
    assert len(line) < 600


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_number_that_json_does_not_have_is_refused_by_name(number: str) -> None:
    with pytest.raises(UserError, match=r"^env_kwargs\['g'\] must be .* finite number"):
        parse_config(["--env-kwargs", f'{{"g": {number}}}'], Config(algo="ppo"), prog="x", description="y")


def test_help_says_what_arguments_of_the_environment_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(
            ["--help"],
            Config(algo="ppo", env="Pendulum-v1", env_kwargs={"g": 5.0}),
            prog="x",
            description="y",
        )
    text = capsys.readouterr().out
    assert "--env-kwargs JSON" in text
    assert """(default: '{"g": 5.0}')""" in " ".join(re.sub(r"\x1b\[[0-9;]*m|[│\n]", " ", text).split())


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
