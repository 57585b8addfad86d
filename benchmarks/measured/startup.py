"""A whole run from the command line: how soon it learns, and how much memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import REPOSITORY
from workers import MeasurementError, Turn

from measured import Effort

_POLL_SECONDS = 0.01


def seconds_and_memory(turn: Turn, effort: Effort) -> None:
    """Seconds from process start to the first logged update, and the run's peak memory in GiB."""
    _run(effort.startup_steps)  # leaves compiled code in torch's disk cache
    turn.repeat(lambda: _run(effort.startup_steps))


def _run(total_steps: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as directory:
        output, run_dir = Path(directory) / "output.txt", Path(directory) / "run"
        command = [sys.executable, "-m", "rlkit_es.run", "--algo", "espo", "--env", "HalfCheetah-v4"]
        command += ["--total-steps", str(total_steps), "--compile", "on", "--run-dir", str(run_dir)]
        with output.open("w") as stream:
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=REPOSITORY)
            first_update, peak = _watch(process, run_dir / "metrics.csv", started)
        if process.returncode != 0 or first_update is None:
            raise MeasurementError(f"{' '.join(command)} failed:\n{output.read_text()}")
    return first_update, peak


def _watch(process: subprocess.Popen[bytes], metrics: Path, started: float) -> tuple[float | None, float]:
    """When the first row of ``metrics`` was there, and the largest process's peak memory in GiB."""
    first_update = None
    while True:
        if first_update is None and _has_row(metrics):
            first_update = time.perf_counter() - started
        # Not Popen.wait: only this tells the memory of one child.
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return first_update, usage.ru_maxrss / 2**20
        time.sleep(_POLL_SECONDS)


def _has_row(metrics: Path) -> bool:
    return metrics.exists() and metrics.read_bytes().count(b"\n") >= 2
