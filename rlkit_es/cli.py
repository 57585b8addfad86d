"""The ``rlkit-es`` console script: one subcommand a task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from rlkit_es import run
from rlkit_es._version import __version__
from rlkit_es.commands import algos, evaluate, export, play, plot, record
from rlkit_es.commands.exit_code import EXIT_USER_ERROR, exit_code
from rlkit_es.errors import suggestion

COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "train": run.main,
    "evaluate": evaluate.main,
    "record": record.main,
    "play": play.main,
    "export": export.main,
    "plot": plot.main,
    "algos": algos.main,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand the arguments to their subcommand; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        return exit_code(lambda: print(_usage())) or (0 if arguments else EXIT_USER_ERROR)
    if arguments[0] == "--version":
        return exit_code(lambda: print(f"rlkit_es {__version__}"))
    if arguments[0] not in COMMANDS:
        print(
            f"error: unknown command {arguments[0]!r}; {suggestion(arguments[0], COMMANDS)}", file=sys.stderr
        )
        return EXIT_USER_ERROR
    return COMMANDS[arguments[0]](arguments[1:])


def _usage() -> str:
    lines = [f"  {name:<9} {_meaning(command)}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: rlkit-es COMMAND ...", "", *lines, "", "rlkit-es COMMAND --help explains each."]
    )


def _meaning(command: Callable[[Sequence[str]], int]) -> str:
    """What the first line of its module says after the colon."""
    first, *_ = (sys.modules[command.__module__].__doc__ or "").splitlines()
    return first.partition(": ")[2].rstrip(".")
