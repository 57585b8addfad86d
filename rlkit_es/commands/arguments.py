"""What is looked at in the arguments before they are parsed, so that an error is one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from rlkit_es.errors import UserError
from rlkit_es.training.other_names import hint

_POWER = re.compile(r"\d+(\.\d+)?[eE]\+?\d+")


def checked(arguments: Sequence[str], hints: Mapping[str, Any]) -> list[str]:
    """The arguments, with whole numbers such as 1e6 written out, and --no-x where x may be None too.

    Args:
        arguments: as they came.
        hints: of every setting, its type, by name.

    Raises:
        UserError: an option is none; the message says what it is called here, or what is similar.
    """
    result: list[str] = []
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            name = _setting(option, hints)
            if hints.get(name) == bool | None and not equals and option.startswith("--no-"):
                argument = f"--{option.removeprefix('--no-')}=False"
            argument = f"{option}={_whole(value, hints.get(name))}" if equals else argument
        else:
            argument = _whole(argument, hints.get(name))
        result.append(argument)
    return result


def _setting(option: str, hints: Mapping[str, Any]) -> str:
    name = option.removeprefix("--").replace("-", "_")
    if name == "help" or name in hints:
        return name
    if hints.get(name.removeprefix("no_")) in (bool, bool | None):
        return name.removeprefix("no_")
    known = [f"--{setting.replace('_', '-')}" for setting in hints]
    raise UserError(f"unknown option {option}; {hint(name, known, option)}")


def _whole(value: str, kind: Any) -> str:
    if int not in (kind, *get_args(kind)) or not _POWER.fullmatch(value) or not float(value).is_integer():
        return value
    return str(int(float(value)))
