"""What a user can do wrong, said in one line that tells how to mend it."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

_T = TypeVar("_T")

_LONGEST_MESSAGE = 500


class UserError(Exception):
    """An error that the user can mend; its message is one line that says how."""


class InUseError(UserError):
    """Another process is at it."""


class CompilationError(UserError):
    """The update cannot be compiled on this machine."""


class NonFiniteError(UserError):
    """A quantity became NaN or infinite; the message names it."""


class DivergedError(NonFiniteError):
    """Learning itself made it NaN or infinite: going on from a checkpoint would do it again."""


def diverged(what: str) -> DivergedError:
    """The error that names ``what`` became NaN or infinite, and says what to do."""
    return DivergedError(f"{what} is not finite: begin a new run with a lower learning rate")


def returned_non_finite(environment: int, what: str) -> NonFiniteError:
    """The error that ``environment`` returned a NaN or infinite ``what``, and says what to do."""
    return NonFiniteError(
        f"environment {environment} returned a non-finite {what}: "
        "check its simulation, or end the episode where it becomes unstable"
    )


class CheckpointError(UserError):
    """A checkpoint or model file is damaged, or not one of this library."""

    def __init__(self, message: str) -> None:
        # What it quotes comes from the file, and may be of any length.
        short = message if len(message) <= _LONGEST_MESSAGE else f"{message[: _LONGEST_MESSAGE - 3]}..."
        super().__init__(short)


def first_line(error: BaseException) -> str:
    """Of its message, or its type where it has none: what fits into a message of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def line_and_type(error: BaseException) -> str:
    """`first_line` and the type, without which that of a KeyError, say, tells nothing."""
    return f"{first_line(error)} ({type(error).__name__})"


def look_up(kind: str, name: str, table: Mapping[str, _T]) -> _T:
    """``table[name]``, or a `UserError` that names the closest matches."""
    if not isinstance(name, str):
        raise UserError(f"{kind} must be a name, got {name!r}")
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}; {suggestion(name, table)}")
    return table[name]


def suggestion(name: str, known: Collection[str]) -> str:
    """The closest of the known names, or all of them where nothing is close."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(by_lower[c] for c in close)}?"
    return f"there is {', '.join(known)}" if len(known) <= 20 else "nothing has a similar name"


def check_choices(config: object) -> None:
    """Every field that is a ``Literal`` holds one of its values.

    Raises:
        UserError: naming the field, its value and the choices.
    """
    for name, hint in get_type_hints(type(config)).items():
        choices = [c for option in (hint, *get_args(hint)) for c in _literals(option)]
        value = getattr(config, name)
        if choices and value not in choices and not (value is None and type(None) in get_args(hint)):
            raise UserError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def check_name(what: str, value: Any, known: Collection[str]) -> None:
    """``value`` is one of the ``known`` names.

    Raises:
        UserError: naming what it is for, its value and the choices.
    """
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{what} must be one of {', '.join(known)}, got {value!r}")


def check_types(config: object, kind: type | tuple[type, ...], what: str, *names: str) -> None:
    """The named fields are of ``kind``, which ``what`` says in words."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, kind):
            raise UserError(f"{name} must be {what}, got {value!r}")


def check_counts(config: object, *names: str, least: int = 1) -> None:
    """The named fields are whole numbers of at least ``least``."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            instead = f": write {value:.0f}" if isinstance(value, float) and value.is_integer() else ""
            raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}{instead}")


def check_range(
    config: object, *names: str, above: float = -math.inf, low: float = -math.inf, high: float = math.inf
) -> None:
    """The named fields are numbers > ``above``, >= ``low`` and <= ``high``; NaN never is."""
    for name in names:
        value = getattr(config, name)
        if not is_number(value) or not (value > above and low <= value <= high):
            bounds = [f"above {above:g}"] if above > -math.inf else []
            bounds += [f"at least {low:g}"] if low > -math.inf else []
            bounds += [f"at most {high:g}"] if high < math.inf else []
            raise UserError(f"{name} must be a number {' and '.join(bounds)}, got {value!r}")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a float, or an int that can be one, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int):
        return isinstance(value, float)
    return abs(value) <= sys.float_info.max


def _literals(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()
