"""Several ranks as one command: one of them speaks, all of them end, and a restart finds its run."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rlkit_es.errors import UserError
from rlkit_es.ranks import ALONE, LostRankError, Ranks
from rlkit_es.runs.interruption import Interrupted
from rlkit_es.runs.run_description import described
from rlkit_es.training.joining import current_ranks, launched, leave, notes

# How long a rank that failed waits for the first to say why, before torchrun ends both.
_HEARD_SECONDS = 10.0
_NOTE_SECONDS = 3.0
_FAILED, _HEARD = "failed", "heard"


class AlreadySaidError(UserError):
    """An error that another rank says, or has said."""


def together(command: Callable[[Ranks], None]) -> None:
    """Carry out ``command`` on every rank; where one fails all end, and the first alone says why.

    Raises:
        UserError: as ``command``, or what another rank could not do.
        AlreadySaidError: in place of it on the other ranks, whose output is dropped.
    """
    launch = launched()
    if launch is None or launch.size == 1:
        command(ALONE)
        return
    with contextlib.nullcontext() if launch.rank == 0 else _silence():
        try:
            command(current_ranks())
        except (UserError, SystemExit) as error:
            if launch.rank == 0:
                _end_first(error)
            _end_other(launch.rank, error)
        except Interrupted:
            if launch.rank == 0 and (note := _note()):  # torchrun ends what another rank began to end
                print(f"error: {note}", file=sys.stderr, flush=True)
            raise
        finally:
            leave()


def launch_of(ranks: Ranks) -> list[str]:
    """The agents of this launch of torchrun, by which a restart knows its run; none outside of a launch."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id is None:
        return []
    return sorted(set(ranks.everyones(f"{run_id} {platform.node()} {os.getppid()}")))


def is_of(directory: Path, launch: Sequence[str]) -> bool:
    """Whether the run in ``directory`` was begun, or gone on with, by this launch."""
    recorded = described(directory).get("launch")
    return isinstance(recorded, list) and any(agent in recorded for agent in launch)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _end_first(error: UserError | SystemExit) -> None:
    """Say what is wrong, wherever it was; then let the others end."""
    if isinstance(error, LostRankError) and (note := _note(_NOTE_SECONDS)):
        error = UserError(note)
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    _leave_note(_HEARD, "")
    if isinstance(error, UserError):
        raise AlreadySaidError(str(error)) from error
    raise error


def _end_other(rank: int, error: UserError | SystemExit) -> None:
    """Leave word for the first rank, and wait until it was heard."""
    if isinstance(error, UserError) and not isinstance(error, LostRankError):
        _leave_note(_FAILED, f"rank {rank}: {error}")
    leave()  # whoever waits for this rank notices
    _wait_for(_HEARD, _HEARD_SECONDS)
    if isinstance(error, UserError):
        raise AlreadySaidError(str(error)) from error
    raise error


def _note(patience_seconds: float = 0.0) -> str | None:
    """What a rank that failed has left."""
    store = notes()
    if store is None or not _wait_for(_FAILED, patience_seconds):
        return None
    return str(store.get(_FAILED), "utf-8")


def _leave_note(name: str, text: str) -> None:
    store = notes()
    if store is not None:
        with contextlib.suppress(RuntimeError):  # whoever kept the notes has gone
            store.set(name, text)


def _wait_for(name: str, patience_seconds: float) -> bool:
    """Whether the note is there by then. In short naps, so that signals are not kept waiting."""
    store, deadline = notes(), time.monotonic() + patience_seconds
    with contextlib.suppress(RuntimeError):
        while store is not None and not store.check([name]):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return store is not None
    return False
