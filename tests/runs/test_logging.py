from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from rlkit_es.runs.logging import ConsoleLogger, CsvLogger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def metrics(steps: int, episode_return: float = 1.5) -> dict[str, float]:
    return {
        "env_steps": steps,
        "episode_return_mean": episode_return,
        "steps_per_second": 1000.0,
        "wall_seconds": steps / 1000,
    }


@pytest.mark.parametrize("iterations", [1, 7, 20, 200, 1999])
def test_some_twenty_plain_lines_where_there_is_no_terminal(iterations: int) -> None:
    stream, total = io.StringIO(), 1000 * iterations
    logger = ConsoleLogger(total, "espo Humanoid-v4", stream)
    for i in range(1, iterations + 1):
        logger.log(metrics(1000 * i, math.nan if i == 1 else 2.5))
    logger.close()
    lines = stream.getvalue().splitlines()
    assert min(iterations, 18) <= len(lines) <= 22
    assert all("espo Humanoid-v4" in line and "\x1b" not in line and "\r" not in line for line in lines)
    assert f"{total:,} / {total:,} steps" in lines[-1]
    assert "return         -  " in lines[0]
    assert "nan" not in stream.getvalue()


def test_what_is_left_is_told_by_the_speed_after_the_first_iteration_which_compiles() -> None:
    stream = io.StringIO()
    logger = ConsoleLogger(10_000, "espo", stream)
    for steps in (1000, 2000, 3000, 10_500):
        logger.log({**metrics(steps), "wall_seconds": 60 + steps / 1000})
    logger.close()
    left = [line.split("steps/s")[1].strip() for line in stream.getvalue().splitlines()]
    assert left == ["- s left", "8 s left", "7 s left", "0 s left"]


@pytest.mark.parametrize("steps", [0, 1, 500, 1500])
def test_a_progress_bar_on_a_terminal(steps: int) -> None:
    stream = Terminal()
    logger = ConsoleLogger(1000, "espo Humanoid-v4", stream)
    logger.log(metrics(steps, math.nan))
    assert "nan" not in stream.getvalue()
    logger.log(metrics(steps))
    logger.close()
    assert "espo Humanoid-v4" in stream.getvalue()
    assert "1.5" in stream.getvalue()


def test_a_progress_bar_without_any_iteration() -> None:
    logger = ConsoleLogger(1000, "espo", Terminal())
    logger.close()


def test_csv_rows_are_on_disk_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "metrics.csv")
    for steps in (10, 20):
        logger.log(metrics(steps))
        with (tmp_path / "metrics.csv").open() as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        assert rows[-1] == metrics(steps)
    logger.close()
