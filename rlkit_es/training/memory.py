"""What one process has room for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlkit_es.errors import UserError

if TYPE_CHECKING:
    from rlkit_es.training.trainer import Trainer

# Copies of a policy's parameters that an update holds: moments, gradient, what is new of each, stacked.
_COPIES_OF_PARAMETERS = 16
# Copies of a rollout's observations: raw, normalised, and stacked for the loops over minibatches.
_COPIES_OF_OBSERVATIONS = 4
_FLOAT_BYTES = 4
_CGROUP = Path("/sys/fs/cgroup")


def tensor_bytes(trainer: Trainer) -> int:
    """What one seed's parameters and samples take while it trains, about."""
    config, spaces = trainer.config, trainer.spaces
    parameters = sum(parameter.numel() for parameter in trainer.policy.parameters())
    row = _COPIES_OF_OBSERVATIONS * spaces.observation.size + 8 * spaces.action.size + 16
    return _FLOAT_BYTES * (_COPIES_OF_PARAMETERS * parameters + config.batch_size * row)


def resident_bytes() -> int:
    """Main memory that this process uses; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def free_bytes() -> int | None:
    """Main memory that is to be had, by the machine and by its container; None where neither tells."""
    free = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int((_CGROUP / "memory.max").read_text())
        free.append(limit - _held_by_container())
    return min(free, default=None)


def _held_by_container() -> int:
    """Without what it keeps of files, which is given up when memory is short."""
    held = int((_CGROUP / "memory.current").read_text())
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        held -= int(dict(line.split() for line in lines)["inactive_file"])
    return held


def require_room(trainer: Trainer, more: int, resident: int) -> None:
    """Refuse ``more`` seeds like that of ``trainer``, if there is no room for them.

    Args:
        trainer: whose environments were begun.
        more: seeds, beside those that there are already.
        resident: bytes that this one seed was seen to take in this process.

    Raises:
        UserError: there is not.
    """
    tensors = tensor_bytes(trainer)
    room: list[tuple[str, int, int]] = []
    if trainer.device.type == "cuda":
        room.append((f"GPU memory ({trainer.device})", tensors, torch.cuda.mem_get_info(trainer.device)[0]))
    elif (free := free_bytes()) is not None:
        room.append(("memory", resident + tensors, free))
    for what, each, free in room:
        if more * each > free:
            raise UserError(
                f"{more:,} more seeds take some {more * each / 2**30:,.1f} GiB of {what}, of which "
                f"{max(free, 0) / 2**30:,.1f} GiB are free: ask for fewer with --num-seeds"
            )


class NoRoomError(UserError):
    """Memory ended."""


@contextlib.contextmanager
def memory_errors_said(seeds: int = 1) -> Iterator[None]:
    """Where memory ends all the same; around another, the outer one says of how many seeds.

    Raises:
        NoRoomError: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError, NoRoomError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError | NoRoomError)
        if not known and "t allocate memory" not in str(error):
            raise
        if seeds == 1:
            raise NoRoomError(
                "this run does not fit into memory: lower num_envs, rollout_steps or hidden_sizes"
            ) from error
        raise NoRoomError(
            f"{seeds:,} seeds do not fit into memory: ask for fewer with --num-seeds"
        ) from error
