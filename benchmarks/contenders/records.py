"""Finished races as lines of a file, so that a measurement can be interrupted and goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkit_es import UserError


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What has to be the same for two measurements to be comparable."""

    total_steps: int
    limit_seconds: float
    jobs: int


@dataclass(frozen=True, kw_only=True)
class Record(Conditions):
    """One finished race, and what it was run with."""

    contender: str  # a key of the table of contenders
    env: str
    seed: int
    threshold: float
    reached: bool
    seconds: float
    cpu_seconds: float
    env_steps: int
    best_return: float | None
    date: str
    revision: str  # of the checkout
    machine: dict[str, str]  # its kind, and versions

    @property
    def key(self) -> tuple[str, str, int]:
        """What is run once."""
        return self.contender, self.env, self.seed


def append(path: Path, record: Record) -> None:
    """Add a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(dataclasses.asdict(record)) + "\n")


def read(path: Path) -> list[Record]:
    """All lines; none where there is no file.

    Raises:
        UserError: a line is no record.
    """
    if not path.exists():
        return []
    return [_parse(path, number, line) for number, line in enumerate(path.read_text().splitlines(), 1)]


def check_conditions(records: Iterable[Record], asked: Conditions) -> None:
    """See to it that all were run under the same conditions.

    Raises:
        UserError: some were not.
    """
    for record in records:
        differing = [
            field.name
            for field in dataclasses.fields(Conditions)
            if getattr(record, field.name) != getattr(asked, field.name)
        ]
        if differing:
            raise UserError(
                f"what is there was run with another {', '.join(differing)}: choose another --output"
            )


def _parse(path: Path, number: int, line: str) -> Record:
    try:
        fields: dict[str, Any] = json.loads(line)
        return Record(**fields)
    except (ValueError, TypeError):
        raise UserError(f"line {number} of {path.name} is no record of a run: remove it") from None
