"""Runs races, each in a process of its own, a few at a time."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NamedTuple

from contenders import Contender
from contenders.race import Race, Result, Watch

# Gymnasium and PyTorch import these where they first need them, which would be on somebody's clock.
_IMPORTED_LATE = ("mujoco", "gymnasium.envs.mujoco", "torch._dynamo")


class Run(NamedTuple):
    """A contender in a race."""

    key: str
    contender: Contender
    race: Race


@dataclass(frozen=True)
class Crash:
    """Why there is no result, in one line."""

    reason: str


def run_races(runs: Sequence[Run], jobs: int) -> Iterator[tuple[Run, Result | Crash]]:
    """Run them in this order, ``jobs`` at a time, and hand over each as it ends."""
    waiting = deque(runs)
    running: dict[Connection, tuple[Run, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.popleft()
                connection, process = _start(run)
                running[connection] = run, process
            for connection in [c for c in wait(list(running)) if isinstance(c, Connection)]:
                run, process = running.pop(connection)
                yield run, _outcome(connection, process)
    finally:
        for _, process in running.values():
            process.kill()


def race_once(contender: Contender, race: Race) -> Result:
    """Race in this process; what is imported before is not counted, all that comes after is."""
    import torch

    torch.set_num_threads(1)
    for module in _IMPORTED_LATE:
        importlib.import_module(module)
    train = contender.load()
    watch = Watch(race)
    train(race, watch)
    return watch.result


def _start(run: Run) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, run.contender, run.race), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _outcome(connection: Connection, process: SpawnProcess) -> Result | Crash:
    try:
        outcome: Result | Crash = connection.recv()
    except EOFError:
        process.join()
        outcome = Crash(f"its process ended with exit code {process.exitcode}")
    process.join(timeout=10)
    process.kill()
    return outcome


def _work(connection: Connection, contender: Contender, race: Race) -> None:
    # The parent is interrupted too, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _be_silent()
    outcome: Result | Crash
    try:
        outcome = race_once(contender, race)
    except Exception as error:
        lines = str(error).strip().splitlines()
        outcome = Crash(": ".join([type(error).__name__, *lines[:1]]))
    connection.send(outcome)


def _be_silent() -> None:
    """Gymnasium and MuJoCo warn of every environment that they make, MuJoCo beside Python's streams."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
