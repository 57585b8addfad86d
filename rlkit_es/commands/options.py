"""Options that are needed before the others are read."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from rlkit_es.errors import UserError, first_line


def take(arguments: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The last value of ``option``, None where it is not given, and the arguments without it."""
    values, rest = take_all(arguments, option)
    return (values[-1] if values else None), rest


def take_all(arguments: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Every value of ``option``, and the arguments without it."""
    values: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, behind = argument.partition("=")
        if not name.startswith("--") or name.replace("_", "-") != option:
            rest.append(argument)
            continue
        value = behind if equals else next(remaining, None)
        if value is None:
            raise UserError(f"{option} needs a value")
        values.append(value)
    return values, rest


def import_modules(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Import what ``--import`` names, from the current directory too.

    Such a module registers environments, networks, surrogates or masks of the user's own.

    Returns:
        the modules' names, and the arguments without them.

    Raises:
        UserError: one cannot be imported.
    """
    modules, rest = take_all(arguments, "--import")
    if modules and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module does when it is imported
            reason = first_line(error)
            raise UserError(f"cannot import {module!r}: {reason}") from error
    return modules, rest
