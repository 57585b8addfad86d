"""Where metrics go: a CSV file, TensorBoard and the terminal, all from one dict an iteration."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Logger(Protocol):
    """Takes the metrics of each iteration."""

    def log(self, metrics: dict[str, float]) -> None:
        """Record one iteration."""
        ...

    def close(self) -> None:
        """Flush what is buffered."""
        ...


class CsvLogger:
    """One row an iteration, on disk as soon as it is logged; columns are those of the first row."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="")
        self._writer: csv.DictWriter[str] | None = None

    def log(self, metrics: dict[str, float]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(metrics))
            self._writer.writeheader()
        self._writer.writerow(metrics)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardLogger:
    """Every metric as a scalar over environment steps."""

    def __init__(self, directory: Path) -> None:
        # Deferred: it takes two seconds to import.
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory))

    def log(self, metrics: dict[str, float]) -> None:
        step = int(metrics["env_steps"])
        for name, value in metrics.items():
            if name != "env_steps":
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class ConsoleLogger:
    """A progress bar on a terminal; some twenty plain lines in a pipe or a log file."""

    def __init__(self, total_steps: int, description: str, stream: TextIO | None = None) -> None:
        stream = sys.stdout if stream is None else stream
        self._total = total_steps
        self._description = description
        self._stream = stream
        self._next_line = 0.0
        self._bar: Progress | None = None
        if stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("return {task.fields[episode_return]:.1f}"),
                TextColumn("{task.fields[speed]:,.0f} steps/s"),
                TimeRemainingColumn(),
                console=Console(file=stream),
            )
            nan = float("nan")
            self._task = self._bar.add_task(description, total=total_steps, episode_return=nan, speed=0)
            self._bar.start()

    def log(self, metrics: dict[str, float]) -> None:
        steps = metrics["env_steps"]
        episode_return, speed = metrics["episode_return_mean"], metrics["steps_per_second"]
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=min(steps, self._total),
                episode_return=episode_return,
                speed=speed,
            )
        elif steps >= self._next_line or steps >= self._total:
            self._next_line = steps + self._total / 20
            left = max(self._total - steps, 0) / max(steps / max(metrics["wall_seconds"], 1e-9), 1e-9)
            print(
                f"{self._description}  {steps:>10,.0f} / {self._total:,} steps  "
                f"return {episode_return:9.1f}  {speed:8,.0f} steps/s  {left:5.0f} s left",
                file=self._stream,
                flush=True,
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
