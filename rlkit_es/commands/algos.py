"""``rlkit-es algos``: the recipes and what each is made of."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from rlkit_es.algorithms import ALGORITHMS
from rlkit_es.commands.exit_code import exit_code
from rlkit_es.errors import UserError
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.training.presets import PRESETS

_HEADINGS = ("--algo", "class", "step", "surrogate", "mask", "stop", "constraint")
_USAGE = "usage: rlkit-es algos\n\nList the recipes with their slots, and the presets."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    return exit_code(lambda: _main(arguments))


def _main(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] not in ("-h", "--help"):
        raise UserError("rlkit-es algos takes no arguments")
    if arguments:
        print(_USAGE)
        return
    table = Table(box=None, pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=True)
    classes = {name: found.__name__ for name, found in ALGORITHMS.items()}
    for name, recipe in RECIPES.items():
        slots = (recipe.surrogate, recipe.mask, recipe.stop, recipe.constraint)
        table.add_row(name, classes[name], recipe.step, *slots)
    console = Console(width=10_000)  # a narrow terminal breaks lines; nothing is cut off
    console.print(table)
    console.print("\n--surrogate, --mask, --stop and --constraint fill a slot otherwise.\n")
    console.print("Defaults of their own:")
    for name, recipe in RECIPES.items():
        if recipe.defaults:
            defaults = (f"{setting} {value}" for setting, value in recipe.defaults.items())
            console.print(f"  {name}: {', '.join(defaults)}")
    console.print()
    for preset, by_algorithm in PRESETS.items():
        console.print(f"--preset {preset}: {', '.join(by_algorithm)}")
