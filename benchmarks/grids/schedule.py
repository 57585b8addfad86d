"""Which cell is run when, and how often: the same on this machine and on a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from grids.cells import Cell, last_words, short

_ATTEMPTS = 2


class Executor(Protocol):
    """Where cells are run."""

    @property
    def jobs(self) -> int | None:
        """How many cells it takes at a time; None: all, it has a queue of its own."""

    def start(self, cell: Cell) -> None:
        """Begin ``cell`` or go on with it, and print its command when that happens."""

    def wait(self) -> list[Cell]:
        """The cells that ended, finished or not, after a moment for some to end."""

    def stop(self) -> None:
        """End what still runs."""


def run_cells(cells: Sequence[Cell], executor: Executor) -> list[Cell]:
    """Run the cells that are not finished, each at most twice.

    Returns:
        those that failed both times.
    """
    waiting = deque((cell, 1) for cell in cells if not cell.finished)
    print(f"cells: {len(cells)}, finished before: {len(cells) - len(waiting)}", flush=True)
    running: dict[Cell, int] = {}  # the number of its attempt
    failed: list[Cell] = []
    try:
        while waiting or running:
            while waiting and (executor.jobs is None or len(running) < executor.jobs):
                cell, attempt = waiting.popleft()
                executor.start(cell)
                running[cell] = attempt
            for cell in executor.wait():
                attempt = running.pop(cell)
                if cell.finished:
                    print(f"finished: {short(cell.directory)}", flush=True)
                elif attempt < _ATTEMPTS:
                    print(f"failed, once more: {short(cell.directory)}: {last_words(cell)}", flush=True)
                    waiting.append((cell, attempt + 1))
                else:
                    failed.append(cell)
    finally:
        executor.stop()
    return failed
