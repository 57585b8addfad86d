from __future__ import annotations

import io
import re
import sys

import pytest

from rlkit_es import Algorithm, cli
from rlkit_es.commands import algos
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.training.presets import PRESETS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def table(output: str) -> dict[str, list[str]]:
    """The cells of every row by its first; columns are two spaces apart."""
    rows = [re.split(r"  +", line.strip()) for line in output.splitlines()]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["algos"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_every_recipe_is_listed_with_its_class_step_and_slots(output: str) -> None:
    rows = table(output)
    classes = {found.recipe: found.__name__ for found in Algorithm.__subclasses__()}
    for name, recipe in RECIPES.items():
        slots = [recipe.surrogate, recipe.mask, recipe.stop, recipe.constraint]
        assert rows[name] == [classes[name], recipe.step, *slots]


def test_the_defaults_of_a_recipe_stand_below_in_one_line(output: str) -> None:
    lines = output.splitlines()
    for name, recipe in RECIPES.items():
        defaults = ", ".join(f"{k} {v}" for k, v in recipe.defaults.items())
        assert (f"  {name}: {defaults}" in lines) is bool(defaults)


def test_every_column_has_a_heading(output: str) -> None:
    headings = next(line for line in output.splitlines() if "--algo" in line)
    positions = [headings.index(name) for name in ("--algo", "class", "step", "surrogate", "mask", "stop")]
    assert positions == sorted(positions)
    assert "constraint" in headings


def test_every_preset_is_listed_with_its_algorithms(output: str) -> None:
    lines = output.splitlines()
    for preset, by_algorithm in PRESETS.items():
        (line,) = (line for line in lines if f"--preset {preset}:" in line)
        assert [name.strip() for name in line.split(":")[1].split(",")] == list(by_algorithm)


def test_a_pipe_gets_plain_text_whatever_the_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for columns in ("30", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        assert algos.main([]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "\x1b" not in texts[0]
    assert "…" not in texts[0]


def test_a_terminal_of_eighty_columns_shows_every_name_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert algos.main([]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "…" not in text
    for name, recipe in RECIPES.items():
        for word in (name, recipe.step, recipe.surrogate, recipe.mask, recipe.stop, recipe.constraint):
            assert word in text


@pytest.mark.parametrize("arguments", ["extra", "--bogus", "espo --help"])
def test_arguments_are_refused_in_one_line(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["algos", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("argument", ["-h", "--help"])
def test_help_is_no_error(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["algos", argument]) == 0
    assert "usage: rlkit-es algos" in capsys.readouterr().out
