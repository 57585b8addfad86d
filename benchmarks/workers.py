"""Processes that measure in turns: while one works, all the others sleep.

Each measured thing has a process of its own, kept alive from round to round: nothing is shared, what
is slow to prepare (compiling, warming up) is done once, and rounds can be interleaved.
"""

from __future__ import annotations

import multiprocessing
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from rlkit_es.errors import UserError


class MeasurementError(Exception):
    """A worker could not measure; the message says why."""


class _Dismissed(BaseException):
    """The parent wants no more measurements. Nothing between here and the worker's end may catch it."""


class Turn:
    """A worker's side: hand over what was measured and sleep until it is asked for again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def end(self, *values: float) -> None:
        """Hand over ``values`` (none: prepared) and return when the next turn begins."""
        try:
            self._connection.send(values)
            self._connection.recv()
        except (EOFError, OSError):
            raise _Dismissed from None

    def repeat(self, measure: Callable[[], tuple[float, ...]]) -> None:
        """Measure once a turn, for as long as asked."""
        self.end()
        while True:
            self.end(*measure())


class Worker:
    """The parent's side of one process that runs ``item(turn)``.

    Args:
        name: for error messages.
        item: picklable; prepares, then measures through the `Turn` that it is given.
    """

    def __init__(self, name: str, item: Callable[[Turn], None]) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, item), daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    def measure(self) -> tuple[float, ...]:
        """One turn.

        Raises:
            MeasurementError: the worker failed.
        """
        self._connection.send(None)
        return self._receive()

    def close(self) -> None:
        """Dismiss the worker and wait until its threads are gone."""
        self._connection.close()
        self._process.join(timeout=10)
        self._process.kill()

    def _receive(self) -> tuple[float, ...]:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            answer = f"its process ended with exit code {self._process.exitcode}"
        if isinstance(answer, str):
            raise MeasurementError(f"{self.name}: {answer}")
        values: tuple[float, ...] = answer
        return values


def _work(connection: Connection, item: Callable[[Turn], None]) -> None:
    # Gymnasium warns of every environment version that is not its newest.
    warnings.simplefilter("ignore")
    # As the trainer does: idle threads of one worker must not spin into another's turn.
    torch.set_num_threads(1)
    try:
        item(Turn(connection))
    except (_Dismissed, KeyboardInterrupt):
        return
    except (UserError, MeasurementError) as error:
        connection.send(str(error))
    except Exception:
        connection.send(traceback.format_exc())
