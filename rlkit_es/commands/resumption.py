"""What training one run, or several seeds, has in common: how it goes on, and what is said of it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlkit_es.commands.settings import parse_settings
from rlkit_es.ranks import Ranks
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation
from rlkit_es.training.trainer import Trainer

PROGRAM = "python -m rlkit_es.run"


def changed_settings(saved: Config, directory: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """The settings of the run in ``directory``, with what ``arguments`` say in their place."""
    return parse_settings(
        arguments,
        saved,
        prog=f"{PROGRAM} --resume {directory}",
        description="Go on with a run. Defaults shown are its settings.",
    )


def say(notes: Iterable[str], warnings: Iterable[str]) -> None:
    """Print what is otherwise than in the run that is gone on with."""
    for line in notes:
        print(line, flush=True)
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr, flush=True)


def result_of(evaluation: Evaluation) -> str:
    """The line that a run ends with."""
    return (
        f"deterministic evaluation over {evaluation.episodes} episodes: "
        f"{evaluation.return_mean:.1f} +- {evaluation.return_std:.1f}"
    )


def command_to_go_on(trainer: Trainer, directory: Path, imported: Sequence[str]) -> str:
    """What to write to go on with the run of ``trainer`` in ``directory``.

    Args:
        trainer: of the run, or of one of several seeds.
        directory: to go on with.
        imported: modules that were imported for it.
    """
    modules = dict.fromkeys([*imported, *filter(None, [trainer.config.env_module])])
    options = [option for module in modules for option in ("--import", module)]
    return shlex.join([*_starter(trainer.ranks), "-m", "rlkit_es.run", "--resume", str(directory), *options])


def _starter(ranks: Ranks) -> list[str]:
    if ranks.size == 1:
        return ["python"]
    nodes = [] if ranks.local_size == ranks.size else ["--nnodes", str(ranks.size // ranks.local_size)]
    return ["torchrun", *nodes, "--nproc-per-node", str(ranks.local_size)]
