"""Where metrics go: a CSV file, TensorBoard and the terminal, all from one dict an iteration."""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import io
import math
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rlkit_es.runs.files import write_atomically, writing

_LONGEST_CLOSE_SECONDS = 3.0


class CsvLogger:
    """One row an iteration, readable as soon as it is logged.

    Args:
        path: of the file; rows that it holds beyond ``earlier`` are dropped with the first that is logged.
        earlier: rows to keep before those that are logged here.

    Raises:
        UserError: from `log` or `flush`, the file cannot be written, or was removed.
    """

    def __init__(self, path: Path, earlier: Sequence[Mapping[str, str]] = ()) -> None:
        self._path = path
        self._earlier = earlier
        self._file: TextIO | None = None

    def log(self, metrics: dict[str, float]) -> None:
        with writing(self._path):
            if self._file is None:
                self._file = self._begin(metrics)
            if not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno())):
                raise FileNotFoundError(errno.ENOENT, "it was replaced", str(self._path))
            self._writer.writerow(metrics)
            self._file.flush()

    def flush(self) -> None:
        if self._file is not None:
            with writing(self._path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # every row was flushed, or its loss reported
                self._file.close()

    def _begin(self, metrics: dict[str, float]) -> TextIO:
        """The earlier rows as a whole, and the file open behind them."""
        columns = list(dict.fromkeys([*(name for row in self._earlier[:1] for name in row), *metrics]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="nan")
        writer.writeheader()
        writer.writerows(self._earlier)
        write_atomically(self._path, text.getvalue().encode())
        file = self._path.open("a", newline="")
        self._writer = csv.DictWriter(file, columns, restval="nan")
        return file


class TensorBoardLogger:
    """Every metric as a scalar over environment steps; NaN, which says that there is none, is left out.

    Args:
        directory: of the event files.
        first_step: what earlier files there say of this step and later ones is not shown.

    Raises:
        UserError: from `log` or `flush`, the file cannot be written.
    """

    def __init__(self, directory: Path, first_step: int | None = None) -> None:
        # Deferred: it takes two seconds to import.
        from torch.utils.tensorboard import SummaryWriter

        self._directory = directory
        _silence_writer_threads()
        with writing(directory):
            self._writer: Any = SummaryWriter(str(directory), purge_step=first_step)

    def log(self, metrics: dict[str, float]) -> None:
        step = int(metrics["env_steps"])
        with writing(self._directory):
            for name, value in metrics.items():
                if name != "env_steps" and not math.isnan(value):
                    self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        with writing(self._directory):
            self._writer.flush()

    def close(self) -> None:
        # In a thread: a signal in the middle of its queue's work may have left its own thread asleep.
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(_LONGEST_CLOSE_SECONDS)

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # reported by `log` or `flush` before
            self._writer.close()


@functools.cache  # once in a process
def _silence_writer_threads() -> None:
    """TensorBoard's thread prints a traceback of an error that its next call in this thread raises."""
    print_traceback = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(arguments.thread).__module__.startswith("tensorboard.")
        if not (of_tensorboard and isinstance(arguments.exc_value, OSError)):
            print_traceback(arguments)

    threading.excepthook = hook


class ConsoleLogger:
    """A progress bar on a terminal; some twenty plain lines in a pipe or a log file."""

    def __init__(self, total_steps: int, description: str, stream: TextIO | None = None) -> None:
        stream = sys.stdout if stream is None else stream
        self._total = total_steps
        self._description = description
        self._stream = stream
        self._next_line = 0.0
        self._first: tuple[float, float] | None = None  # steps and seconds after the first iteration
        self._bar: Progress | None = None
        if stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("return {task.fields[episode_return]}"),
                TextColumn("{task.fields[speed]:,.0f} steps/s"),
                TimeRemainingColumn(),
                console=Console(file=stream),
            )
            self._task = self._bar.add_task(description, total=total_steps, episode_return="-", speed=0)
            self._bar.start()

    def log(self, metrics: dict[str, float]) -> None:
        steps = metrics["env_steps"]
        mean, speed = metrics["episode_return_mean"], metrics["steps_per_second"]
        episode_return = "-" if math.isnan(mean) else f"{mean:.1f}"  # before the first episode has ended
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=min(steps, self._total),
                episode_return=episode_return,
                speed=speed,
            )
        elif steps >= self._next_line or steps >= self._total:
            self._next_line = steps + self._total / 20
            print(
                f"{self._description}  {steps:>10,.0f} / {self._total:,} steps  "
                f"return {episode_return:>9}  {speed:8,.0f} steps/s  {self._left(metrics):>5} s left",
                file=self._stream,
                flush=True,
            )

    def _left(self, metrics: dict[str, float]) -> str:
        """Seconds until the end, at the speed since the first iteration, in which the update is compiled."""
        steps, seconds = metrics["env_steps"], metrics["wall_seconds"]
        if self._first is None:
            self._first = steps, seconds
        done, taken = steps - self._first[0], seconds - self._first[1]
        to_do = max(self._total - steps, 0)
        return "0" if not to_do else f"{to_do * taken / done:.0f}" if done else "-"

    def flush(self) -> None:
        """Each line is shown as it comes."""

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
