"""Whether a run that was killed ends as the one that was not: bit for bit, wherever it was hit.

    python benchmarks/crash.py

Trains once undisturbed. Then the same run again and again, each killed with SIGKILL once or several
times, gone on with by ``--resume`` and at its end compared with the first: checkpoints, metrics.csv but for
its two columns of time, evaluation.json. Half of the kills come at any moment between the first checkpoint
and the end, half while a checkpoint is being written. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from command_line import EXIT_USER_ERROR, Parser, count
from machine import REPOSITORY, describe_machine, git_revision

from rlkit_es import UserError
from rlkit_es.runs.checkpoint_file import read_checkpoint

RESULTS = REPOSITORY / "benchmarks" / "results" / "crash.json"
EXIT_DIFFERENT = 1

# Episodes that end, normalisers, a stop, a mask, linear schedules: all that has a state. Wide networks, whose
# checkpoints take a while to write, and returns that grow: the best one is written as often as the last.
SETTINGS = (
    *("--algo", "sd_espo", "--env", "Hopper-v4", "--num-envs", "8", "--rollout-steps", "32"),
    *("--hidden-sizes", "256", "256", "--epochs", "4", "--critic-epochs", "2", "--compile", "off"),
    *("--deviation-threshold-schedule", "linear", "--checkpoint-every", "1024"),
    *("--eval-episodes", "4", "--env-threads", "1"),
)
_TIMING = ("wall_seconds", "steps_per_second")
_FURTHER_KILL = 0.4  # how probable it is that a run that goes on is killed again
_LONGEST_WRITE = 0.006  # seconds after its beginning within which a write is hit
_POLL_SECONDS = 0.0002
_STALLED_SECONDS = 300


class CrashError(Exception):
    """A process did what it should not; the message says what."""


class Kill(NamedTuple):
    """When to kill a process."""

    during: Literal["anything", "a write"]
    moment: float  # in [0, 1): of the time that it has left, or of the writes that it has left
    delay: float  # in [0, 1): of the longest write


@dataclass
class Hit:
    """What a kill hit."""

    run: int
    during: str  # what was aimed at
    checkpoint: int | None  # environment steps of the last one then; None: there was none yet
    rows_beyond: int  # of metrics.csv, to be logged again
    temporary_files: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)  # checkpoints that cannot be read

    def what(self, total_steps: int) -> str:
        """In words."""
        if self.temporary_files:
            return "in a write"
        if self.checkpoint is None:
            return "before the first checkpoint"
        return "in a segment" if self.checkpoint < total_steps else "after the last checkpoint"


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, compare, print and save; returns the exit code."""
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-") as root:
        bench = Bench(Path(root), options.total_steps, options.kills)
        pool = ThreadPoolExecutor(options.jobs)
        try:
            print(f"undisturbed: {bench.measure():.1f} s from the first checkpoint to the end", flush=True)
            plan = make_plan(options.kills, options.seed)
            different = [name for names in pool.map(bench.carry_out, plan) for name in names]
        except CrashError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR
        finally:
            bench.stop()
            pool.shutdown(cancel_futures=True)
    report = bench.report() | {
        "seed": options.seed,
        "seconds": round(time.monotonic() - began),
        "different": different,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{report['kills']} kills of {report['runs']} runs: {report['hit']}")
    print("\n".join([f"{len(different)} differences from the undisturbed run", *different[:20]]))
    print(f"wrote {options.output}")
    return EXIT_DIFFERENT if different or report["damaged"] else 0


def make_plan(kills: int, seed: int) -> list[tuple[int, list[Kill]]]:
    """The runs by number, and the kills of each."""
    rng = random.Random(seed)
    kinds: list[Literal["anything", "a write"]] = ["anything", "a write"]
    left = [Kill(kinds[i % 2], rng.random(), rng.random()) for i in range(kills)]
    rng.shuffle(left)
    plan: list[tuple[int, list[Kill]]] = []
    while left:
        several = [left.pop()]
        while left and rng.random() < _FURTHER_KILL:
            several.append(left.pop())
        plan.append((len(plan) + 1, several))
    return plan


class Watch:
    """Counts the files that appear to be written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._there = _temporary(directory)  # of processes that were killed
        self._count = 0

    def writes(self) -> int:
        """How many there were up to now, if asked often enough."""
        there = _temporary(self._directory)
        self._count += len(there - self._there)
        self._there = there
        return self._count


class Bench:
    """Runs in directories under ``root``, and what became of them."""

    def __init__(self, root: Path, total_steps: int, kills: int) -> None:
        self.root = root
        self.total_steps = total_steps
        self.kills = kills
        self.hits: list[Hit] = []
        self.runs = 0
        self.seconds, self.writes = 0.0, 0  # of the undisturbed run, after its first checkpoint
        self.reference: dict[str, str] = {}
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def measure(self) -> float:
        """Train undisturbed; seconds from the first checkpoint to the end."""
        directory = self.root / "undisturbed"
        process = self._start(directory)
        self._wait(process, lambda: bool(_steps(directory)), directory)
        began, watch = time.monotonic(), Watch(directory)

        def watch_on() -> bool:
            self.writes = watch.writes()
            return False

        self._wait(process, watch_on, directory)
        self._finish(process, directory)
        self.seconds = time.monotonic() - began
        self.reference = fingerprint(directory)
        return self.seconds

    def carry_out(self, run: tuple[int, list[Kill]]) -> list[str]:
        """Kill one run as planned, let it end, and say in what it differs."""
        number, left = run
        names, attempts = [], itertools.count(1)
        while left:
            directory, killed, ended = self.root / f"run{number}-{next(attempts)}", 0, False
            while left and not ended:
                ended = not self._kill(self._start(directory), directory, left[0])
                if not ended:
                    self._note(number, directory, left.pop(0))
                    killed += 1
            if not ended:  # else the kill came too late, and is tried again in another directory
                self._finish(self._start(directory), directory)
            names += differences(self.reference, fingerprint(directory))
            with self._lock:
                self.runs += 1
                print(f"run {number}, killed {killed} x: {'DIFFERENT' if names else 'the same'}", flush=True)
        return [f"run {number}: {name}" for name in names]

    def report(self) -> dict[str, Any]:
        """What was done and hit."""
        hit = Counter(hit.what(self.total_steps) for hit in self.hits)
        return {
            "machine": describe_machine(),
            "git revision": git_revision(),
            "settings": " ".join((*SETTINGS, "--total-steps", str(self.total_steps))),
            "kills": len(self.hits),
            "runs": self.runs,
            "hit": dict(hit),
            "temporary files left": sum(len(hit.temporary_files) for hit in self.hits),
            "of which of the best": sum("best" in name for hit in self.hits for name in hit.temporary_files),
            "damaged": sum(len(hit.damaged) for hit in self.hits),
            "compared": len(self.reference),
            "each": [asdict(hit) for hit in self.hits],
        }

    def stop(self) -> None:
        """End every process that was begun, and begin no more."""
        self._stopped = True
        for process in list(self._processes):
            process.kill()

    def _start(self, directory: Path) -> subprocess.Popen[bytes]:
        """Begin the run in ``directory``, or go on with it where it has a checkpoint."""
        if self._stopped:
            raise CrashError("stopped")
        arguments = ["--resume", str(directory)]
        if not _steps(directory):
            arguments = [*SETTINGS, "--total-steps", str(self.total_steps), "--run-dir", str(directory)]
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        with directory.with_suffix(".log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rlkit_es.run", *arguments],
                stdout=log,
                stderr=log,
                cwd=self.root,
                env={**os.environ, "PYTHONPATH": path},
            )
        self._processes.add(process)
        return process

    def _finish(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        code = process.wait(_STALLED_SECONDS)
        self._processes.discard(process)
        if code:
            raise CrashError(f"exit code {code}: {_log(directory)}")

    def _kill(self, process: subprocess.Popen[bytes], directory: Path, kill: Kill) -> bool:
        """False: it had ended."""
        before = _identity(directory)
        self._wait(process, lambda: _identity(directory) != before, directory)  # it has begun to train
        left = 1 - max(_steps(directory), default=0) / self.total_steps
        if kill.during == "anything":
            self._wait(process, lambda: bool(_steps(directory)), directory)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(kill.moment * max(left, 0.1) * self.seconds)
        else:
            writes = 1 + int(kill.moment * max(left, 0) * self.writes)
            watch = Watch(directory)
            self._wait(process, lambda: watch.writes() >= writes, directory)
            end = time.perf_counter() + kill.delay * _LONGEST_WRITE
            while time.perf_counter() < end:
                pass
        process.kill()
        code = process.wait()
        self._processes.discard(process)
        if code == 0:
            return False
        if code > 0:
            raise CrashError(f"exit code {code}: {_log(directory)}")
        return True

    def _wait(self, process: subprocess.Popen[bytes], condition: Callable[[], bool], directory: Path) -> None:
        """Until ``condition``, or the process has ended."""
        deadline = time.monotonic() + _STALLED_SECONDS
        while not condition() and process.poll() is None:
            if time.monotonic() > deadline:
                raise CrashError(f"nothing happens any more: {_log(directory)}")
            time.sleep(_POLL_SECONDS)

    def _note(self, number: int, directory: Path, kill: Kill) -> None:
        steps = _steps(directory)
        damaged = []
        for path in sorted((directory / "checkpoints").glob("*.safetensors")):
            try:
                read_checkpoint(path)
            except UserError as error:
                damaged.append(str(error))
        hit = Hit(
            run=number,
            during=kill.during,
            checkpoint=max(steps, default=None),
            rows_beyond=_rows_beyond(directory, max(steps, default=0)),
            temporary_files=sorted(_temporary(directory)),
            damaged=damaged,
        )
        with self._lock:
            self.hits.append(hit)
            print(
                f"kill {len(self.hits)}/{self.kills}, run {number}: {hit.what(self.total_steps)}, checkpoint "
                f"{hit.checkpoint}, {hit.rows_beyond} rows beyond it{', DAMAGED' if damaged else ''}",
                flush=True,
            )


def fingerprint(directory: Path) -> dict[str, str]:
    """A checksum of each thing that a run left, by name, but for the time it took."""
    found = {
        "files": " ".join(sorted(path.name for path in (directory / "checkpoints").iterdir())),
        "evaluation.json": _digest((directory / "evaluation.json").read_bytes()),
    }
    with (directory / "metrics.csv").open(newline="") as file:
        for i, row in enumerate(csv.DictReader(file), 1):
            found[f"metrics.csv, row {i}"] = json.dumps(_untimed(row))
    for path in sorted((directory / "checkpoints").glob("*.safetensors")):
        checkpoint = read_checkpoint(path)
        for name, tensor in checkpoint.tensors.items():
            kind = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
            found[f"{path.name}, {name}"] = _digest(kind + tensor.numpy().tobytes())
        for name, value in checkpoint.state.items():
            if name in ("metrics", "progress"):
                value = {key: float(number) for key, number in _untimed(value).items()}
            found[f"{path.name}, {name}"] = json.dumps(value)
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of what is not the same."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _TIMING}


def _steps(directory: Path) -> list[int]:
    paths = (directory / "checkpoints").glob("step-*.safetensors")
    return [int(path.stem.removeprefix("step-")) for path in paths]


def _temporary(directory: Path) -> set[str]:
    try:
        with os.scandir(directory / "checkpoints") as entries:
            return {entry.name for entry in entries if entry.name.endswith(".tmp")}
    except OSError:
        return set()


def _identity(directory: Path) -> tuple[int, int] | None:
    """Of config.json, which a process writes anew before it trains."""
    try:
        status = (directory / "config.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _rows_beyond(directory: Path, steps: int) -> int:
    try:
        lines = (directory / "metrics.csv").read_text().split("\n")[1:-1]
    except OSError:
        return 0
    return sum(float(line.split(",")[0]) > steps for line in lines)


def _log(directory: Path) -> str:
    return directory.with_suffix(".log").read_text(errors="replace")[-1000:]


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=count, default=100, help="how many (default 100)")
    parser.add_argument("--jobs", type=count, default=2, help="runs at a time (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (default 0)")
    parser.add_argument("--total-steps", type=count, default=12_000, help="of the run (default 12000)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
