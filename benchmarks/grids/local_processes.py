"""Runs cells as processes of this machine."""

from __future__ import annotations

import subprocess
import sys
import time

from machine import REPOSITORY

from grids.cells import Cell, prepare, short

_POLL_SECONDS = 0.2


class LocalProcesses:
    """An `Executor`: one process a cell.

    Args:
        jobs: how many at a time.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._running: dict[subprocess.Popen[bytes], Cell] = {}

    def start(self, cell: Cell) -> None:
        prepare(cell)
        print(cell.next_command, flush=True)
        command = [sys.executable, "-m", "rlkit_es.run", *cell.next_arguments(short(cell.directory))]
        with cell.log.open("a") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=REPOSITORY
            )
        self._running[process] = cell

    def wait(self) -> list[Cell]:
        time.sleep(_POLL_SECONDS)
        return [self._running.pop(process) for process in list(self._running) if process.poll() is not None]

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
            process.wait()
