"""Tables of the command line's settings, from the dataclasses that ``--help`` is made of."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rlkit_es import cli
from rlkit_es.commands.settings import grouped_meanings
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.training.config import Config
from rlkit_es.training.defaults import env_defaults

_KINDS = {"`ALE/...`": "ALE/Pong-v5", "`dm_control/...`": "dm_control/cheetah-run-v0"}
_HELP_WIDTH = "100"


def settings_page() -> str:
    """Markdown: every flag with its default and meaning, in groups, and whose defaults differ."""
    return "\n\n".join([_flags(), _own_defaults(), _commands()])


def flag(name: str) -> str:
    """As it is typed."""
    return f"--{name.replace('_', '-')}"


def _flags() -> str:
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    hints = get_type_hints(Config)
    lines: list[str] = []
    for title, settings in grouped_meanings().items():
        lines += ["", f"### {title}", "", "| flag | default | meaning |", "|---|---|---|"]
        for name, meaning in settings.items():
            required = defaults[name] is dataclasses.MISSING
            shown = "" if required else f"`{_typed(defaults[name])}`"
            lines.append(f"| `{_spelled(name, hints[name])}` | {shown} | {_cell(meaning)} |")
    return "\n".join(["## Every setting", *lines])


def _own_defaults() -> str:
    lines = ["## Whose defaults differ", "", "| for | defaults of its own |", "|---|---|"]
    lines += [f"| `--algo {name}` | {_listed(r.defaults)} |" for name, r in RECIPES.items() if r.defaults]
    for kind, example in _KINDS.items():
        alike: dict[str, list[str]] = {}
        for name, recipe in RECIPES.items():
            alike.setdefault(_listed(env_defaults(example, recipe)), []).append(name)
        for settings, names in alike.items():
            lines.append(f"| `--env` {kind}, `--algo` {', '.join(names)} | {settings} |")
    return "\n".join(lines)


def _commands() -> str:
    parts = ["## The other commands"]
    for command in cli.COMMANDS:
        if command != "train":
            parts += [f"### rlkit-es {command}", f"```text\n{_help(command)}\n```"]
    return "\n\n".join(parts)


def _help(command: str) -> str:
    """What ``rlkit-es COMMAND --help`` prints on a terminal without colour."""
    printed, environment = io.StringIO(), dict(os.environ)
    os.environ |= {"COLUMNS": _HELP_WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main([command, "--help"])
    finally:
        os.environ.clear()
        os.environ |= environment
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def _spelled(name: str, hint: Any) -> str:
    if hint is bool:
        return f"{flag(name)}, --no-{name.replace('_', '-')}"
    choices = "\\|".join(map(str, get_args(hint))) if get_origin(hint) is Literal else ""
    return f"{flag(name)} {choices}".strip()


def _typed(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{_given(name, value)}`" for name, value in settings.items())


def _given(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag(name) if value else f"--no-{name.replace('_', '-')}"
    return f"{flag(name)} {_typed(value)}".strip()


def _cell(text: str) -> str:
    # A name in angle brackets would be taken for HTML.
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
