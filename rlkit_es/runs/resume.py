"""Going on with a run from its directory alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlkit_es.errors import UserError
from rlkit_es.ranks import Ranks
from rlkit_es.runs.checkpoint_store import CheckpointStore, refuse_several
from rlkit_es.runs.run_description import described, versions
from rlkit_es.runs.run_directory import checkpoints_of
from rlkit_es.training.checkpoint import (
    Checkpoint,
    config_of,
    ranks_of,
    require_imported_environment,
    restored,
)
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer

# What a run that goes on may do otherwise: how long, with what, and how it is looked at.
MAY_CHANGE = frozenset(
    {
        *("total_steps", "device", "torch_threads", "env_threads", "env_groups", "compile"),
        *("eval_episodes", "eval_every", "keep_checkpoints", "wandb"),
    }
)


class SavedRun(NamedTuple):
    """What a run directory has to go on from."""

    checkpoint: Checkpoint
    config: Config
    warnings: list[str]  # what the user should know of it


def open_run(directory: Path) -> SavedRun:
    """The last good checkpoint in ``directory``.

    Raises:
        UserError: there is no run, or more than one, or its environment is of a module that was not
            imported.
        CheckpointError: all its checkpoints are damaged, or it is of another version.
    """
    refuse_several(directory)
    if not checkpoints_of(directory).is_dir():
        raise UserError(f"no run to go on with in {directory}: there is no {checkpoints_of(directory)}")
    checkpoint, damaged = CheckpointStore(checkpoints_of(directory)).load()
    config = dataclasses.replace(config_of(checkpoint), run_dir=directory)
    require_imported_environment(config)
    warnings = [f"{error}; going on from the one before it" for error in damaged]
    return SavedRun(checkpoint, config, warnings + _other_versions(directory))


def open_together(directory: Path, ranks: Ranks) -> SavedRun:
    """`open_run`, of which the first rank tells the others: they need not see its disk."""
    saved = ranks.from_first(open_run(directory) if ranks.first else None)
    assert saved is not None
    return saved


def continued(
    saved: SavedRun, settings: Mapping[str, Any], ranks: Ranks | None = None
) -> tuple[Trainer, list[str]]:
    """A trainer that goes on where the checkpoint was taken.

    Args:
        saved: of `open_run`.
        settings: by name, those that may be otherwise from here on; left out: as they were.
        ranks: as of `Trainer`.

    Returns:
        the trainer, and what the changes mean.

    Raises:
        UserError: a setting was changed that would make it another run, or training cannot end where
            it is to end now; and as of `restored`.
    """
    names = [name for name, value in settings.items() if value != getattr(saved.config, name)]
    for name in names:  # before they are checked together: with another algo, many would not go with it
        if name not in MAY_CHANGE:
            raise UserError(
                f"{name} is {getattr(saved.config, name)!r} in this run, and going on with another value "
                "would make it a different experiment: start a new run, or leave it out"
            )
    trainer = restored(saved.checkpoint, dataclasses.replace(saved.config, **settings), ranks)
    trainer.recorded = True
    said = _apply(trainer, saved.config, names)
    if (before := ranks_of(saved.checkpoint)) != trainer.ranks.size:
        said.append(
            f"ranks were {before} and are {trainer.ranks.size}: what follows is as good, but not the same"
        )
    return trainer, said


def _apply(trainer: Trainer, before: Config, names: list[str]) -> list[str]:
    """Make a new end take effect, and say what the changes mean."""
    said = []
    progress, config = trainer.progress, trainer.config
    if "total_steps" in names:
        end = progress.stage_begin + config.total_steps
        if end <= progress.env_steps:
            raise UserError(
                f"total_steps {config.total_steps:,} would end before the checkpoint at "
                f"{progress.env_steps - progress.stage_begin:,} steps: ask for more"
            )
        progress.stage_end = end
        said.append(f"ends after {config.total_steps:,} steps instead of {before.total_steps:,}")
        if config.moves_to_the_end:
            said.append(
                "linear schedules now end there: what follows is not what a run of either length does"
            )
    numeric = [n for n in names if n in ("device", "torch_threads", "env_groups", "compile")]
    if not numeric and trainer.compiles(before)[0] != trainer.compiles(config)[0]:
        numeric = ["way of updating (compiled or eager, by the length)"]
    if numeric:
        said.append(f"with another {' and '.join(numeric)}, results agree up to rounding only")
    return said


def _other_versions(directory: Path) -> list[str]:
    """Packages that were not the same when the run began; nothing where that is not known."""
    recorded = described(directory).get("versions")
    if not isinstance(recorded, dict):
        return []
    return [
        f"{name} was {recorded[name]} and is {now}: results may differ from the uninterrupted run's"
        for name, now in versions().items()
        if name in recorded and recorded[name] != now
    ]
