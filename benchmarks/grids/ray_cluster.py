"""Runs cells on a Ray cluster."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from typing import Any

from grids import ray_machine
from grids.cells import Cell, prepare
from rlkit_es.errors import UserError, first_line
from rlkit_es.runs.files import write_atomically

_POLL_SECONDS = 0.2
_LONGEST_ANSWER_SECONDS = 30.0
_LONGEST_STOP_SECONDS = 15.0
_CONNECT = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"


class RayCluster:
    """An `Executor`: one task of one CPU a cell, in a temporary directory of the machine that has room.

    What there is of the run comes back at each of its checkpoints and when it ends, so that a cell whose
    machine was lost goes on elsewhere from its last checkpoint.

    Args:
        address: "auto" for the cluster that this machine belongs to, or its head's HOST:PORT.
        jobs: how many cells at a time; None: as many as the cluster has room for.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str, jobs: int | None) -> None:
        self.jobs = jobs
        self._ray = _connect(address)
        self._ray.cloudpickle.register_pickle_by_value(ray_machine)
        # Attempts are counted by the schedule, not by Ray.
        self._train = self._ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(ray_machine.train)
        self._running: dict[Any, Cell] = {}  # by the stream of what comes back

    def start(self, cell: Cell) -> None:
        prepare(cell)
        run = cell.directory.name
        before = ray_machine.collect(cell.directory.parent, run)
        self._running[self._train.remote(run, cell.next_arguments(run), before)] = cell

    def wait(self) -> list[Cell]:
        time.sleep(_POLL_SECONDS)  # not in Ray, which makes another exit code of a SIGTERM
        streams = list(self._running)
        ready, _ = self._ray.wait(streams, num_returns=len(streams), timeout=0)
        return [
            self._running.pop(stream) for stream in ready if not self._take(stream, self._running[stream])
        ]

    def stop(self) -> None:
        for stream in self._running:
            self._ray.cancel(stream)
        latest = time.monotonic() + _LONGEST_STOP_SECONDS
        while self._running and time.monotonic() < latest:
            self.wait()
        self._ray.shutdown()

    def _take(self, stream: Any, cell: Cell) -> bool:
        """Take the next of what comes back; whether there may be more."""
        try:
            files = self._ray.get(next(stream))
        except StopIteration:
            return False
        except self._ray.exceptions.TaskCancelledError:
            return True
        except self._ray.exceptions.RayError as error:
            with cell.log.open("a") as log:
                log.write(f"lost on the cluster: {_reason(error)}\n")
            return True
        if files is None:
            print(cell.next_command, flush=True)
        else:
            _write(cell, files)
        return True


def _write(cell: Cell, files: ray_machine.Files) -> None:
    """Make what is here of the run what there is of it; at any moment it can be gone on from."""
    root = cell.directory.parent
    for name in sorted(files, key=ray_machine.order, reverse=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(root / name, files[name])
    for path in list(cell.directory.rglob("*")):
        if path.is_file() and str(path.relative_to(root)) not in files:
            path.unlink()


def _reason(error: Exception) -> str:
    """The first sentence of what Ray says, or what was raised in the task."""
    return first_line(getattr(error, "cause", None) or error).split(". ")[0]


def _connect(address: str) -> Any:
    """The module ray, connected.

    Raises:
        UserError: as of `RayCluster`.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("ray is not installed: pip install 'rlkit_es[ray]', or leave out --ray") from error
    if not re.fullmatch(r"auto|[\w.-]+:\d+", address):
        raise UserError(f"--ray must be auto or HOST:PORT, got {address!r}")
    _check_answer(address)
    handler = signal.getsignal(signal.SIGTERM)  # Ray puts its own there
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    signal.signal(signal.SIGTERM, handler)
    return ray


def _check_answer(address: str) -> None:
    """In a process of its own: where nothing answers, Ray tries for minutes, or ends the process."""
    command = [sys.executable, "-c", _CONNECT, address]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_ANSWER_SECONDS)
        if not answer.returncode:
            return
        *_, last_line = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        reason = last_line.split(". ")[0]
    except subprocess.TimeoutExpired:
        reason = f"no answer within {_LONGEST_ANSWER_SECONDS:g} seconds"
    raise UserError(f"no Ray cluster at {address}: {reason}; start one: ray start --head")
