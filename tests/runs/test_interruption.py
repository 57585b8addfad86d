from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import toy_envs
from run_results import result, rows

from rlkit_es import run
from rlkit_es.runs import checkpoint_file, experiment
from rlkit_es.runs.checkpoint_file import read_checkpoint
from rlkit_es.runs.logging import CsvLogger
from rlkit_es.training.trainer import Trainer

ROOT = Path(run.__file__).parents[1]
PATIENCE_SECONDS = 60
SMALL = [
    *("--algo", "sd_espo", "--env", "toy_envs:ToyWalk-v0", "--num-envs", "4", "--rollout-steps", "16"),
    *("--minibatch-size", "32", "--epochs", "2", "--critic-epochs", "2", "--hidden-sizes", "8"),
    *("--compile", "off", "--eval-episodes", "2"),
]
SHORT = [*SMALL, "--total-steps", "400", "--checkpoint-every", "150"]

# Walks whose steps and whose end take a while, where the environment variables say so.
SLOW = """
import os, time, toy_envs

def step(self, action, step=toy_envs.Walk.step):
    time.sleep(float(os.environ.get("STEP_SECONDS", 0)))
    return step(self, action)

def close(self):
    time.sleep(float(os.environ.get("CLOSE_SECONDS", 0)))

toy_envs.Walk.step, toy_envs.Walk.close = step, close
"""


class HowToGoOn(NamedTuple):
    """What an interrupted run prints at its end."""

    at: int
    checkpoint: int
    again: int
    command: list[str]

    @property
    def arguments(self) -> list[str]:
        """Of the printed command, as `run.main` takes them."""
        assert self.command[:3] == ["python", "-m", "rlkit_es.run"]
        return self.command[3:]


def how_to_go_on(output: str) -> HowToGoOn:
    found = re.search(
        r"^at ([\d,]+) steps; the last checkpoint is at ([\d,]+), so ([\d,]+) steps will be done again\n"
        r"to go on: (.*)\n\Z",
        output,
        re.MULTILINE,
    )
    assert found, output
    return HowToGoOn(*(int(n.replace(",", "")) for n in found.groups()[:3]), shlex.split(found[4]))


def assert_whole(directory: Path) -> None:
    """Every file that an interrupted run left can be read."""
    assert [path.name for path in directory.rglob(".*")] == []
    for path in (directory / "checkpoints").iterdir():
        read_checkpoint(path)
    assert (directory / "metrics.csv").read_bytes().endswith(b"\n")
    assert len({len(row) for row in rows(directory)}) == 1


@contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, as if in a terminal of its own; whatever is left of it ends here."""
    path = os.pathsep.join([str(ROOT), str(Path(toy_envs.__file__).parent), os.getcwd()])
    process = subprocess.Popen(
        [sys.executable, *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def nothing_is_left(process: subprocess.Popen[str]) -> bool:
    """Whether all that it began has ended too, soon after it."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait for what the process is to do."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_it_goes_on(process: subprocess.Popen[str], directory: Path) -> None:
    """Wait until the file of metrics is a new one, without what will be done again."""
    before = (directory / "metrics.csv").stat().st_ino
    until(process, lambda: (directory / "metrics.csv").stat().st_ino != before)


def has_rows(directory: Path, count: int) -> bool:
    path = directory / "metrics.csv"
    return path.exists() and path.read_bytes().count(b"\n") > count


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float

    @property
    def promptly(self) -> bool:
        """Python's and torch's own end takes a second of it, and longer where others compute too."""
        return self.seconds < (3 if os.getloadavg()[0] < 1.5 else 15)


def stop(process: subprocess.Popen[str], number: int, *, group: bool = False) -> Ended:
    """Signal it, and wait until it ends."""
    time.sleep(0.02)  # rows are watched for: let the next rollout begin
    began = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return Ended(process.returncode, out, err, time.monotonic() - began)


class Story(NamedTuple):
    """A run that was interrupted, gone on with, terminated, and gone on with to its end."""

    directory: Path
    arguments: list[str]
    interrupted: Ended
    after: list[int]  # env_steps that were logged when each of the two was stopped
    checkpoints: list[list[int]]  # env_steps of the checkpoints then
    refused: tuple[int, str]  # exit code and stderr of this process, which tried to go on meanwhile
    terminated: Ended
    ended: Ended


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    home = tmp_path_factory.mktemp("story")
    (home / "slow.py").write_text(SLOW)
    directory = Path("a run") / "of it"
    arguments = [*SMALL, "--total-steps", "4000", "--checkpoint-every", "1000"]
    command = ["python", "-m", "rlkit_es.run", "--import", "slow", *arguments, "--run-dir", str(directory)]
    after, checkpoints = [], []

    def note() -> None:
        assert_whole(directory)
        after.append(int(rows(directory)[-1]["env_steps"]))
        paths = sorted((directory / "checkpoints").glob("step-*"))
        checkpoints.append([int(path.stem.removeprefix("step-")) for path in paths])

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(home)
        with running(*command, STEP_SECONDS="0.0005") as process:
            until(process, lambda: has_rows(directory, 30))
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
                code = run.main(["--resume", str(directory), "--import", "toy_envs"])
            assert process.poll() is None
            interrupted = stop(process, signal.SIGINT)
            note()
        with running(*how_to_go_on(interrupted.out).command, STEP_SECONDS="0.0005") as process:
            until_it_goes_on(process, directory)
            until(process, lambda: int(rows(directory)[-1]["env_steps"]) > after[0])
            terminated = stop(process, signal.SIGTERM)
            note()
        with running(*how_to_go_on(terminated.out).command) as process:
            said = process.communicate(timeout=PATIENCE_SECONDS)
            ended = Ended(process.returncode, *said, 0.0)
    return Story(
        home / directory,
        arguments,
        interrupted,
        after,
        checkpoints,
        (code, err.getvalue()),
        terminated,
        ended,
    )


def test_ctrl_c_ends_a_run_promptly_with_130_and_one_line(story: Story) -> None:
    assert story.interrupted.code == 130
    assert story.interrupted.err == "interrupted by SIGINT\n"
    assert story.interrupted.promptly


def test_sigterm_ends_a_run_promptly_with_143_and_one_line(story: Story) -> None:
    assert story.terminated.code == 143
    assert story.terminated.err == "interrupted by SIGTERM\n"
    assert story.terminated.promptly


def test_what_is_printed_of_the_steps_to_be_done_again_is_right(story: Story) -> None:
    stopped = (story.interrupted, story.terminated)
    for ended, steps, checkpoints in zip(stopped, story.after, story.checkpoints, strict=True):
        said = how_to_go_on(ended.out)
        assert (said.at, said.checkpoint) == (steps, checkpoints[-1])
        assert said.again == steps - checkpoints[-1]
        assert said.checkpoint % 1000 < 64  # where a segment ends
    assert story.after[0] < story.after[1]


def test_the_printed_command_goes_on_to_the_end_that_was_meant(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (story.ended.code, story.ended.err) == (0, "")
    assert story.ended.out.startswith("going on with a run/of it from ")
    assert run.main([*story.arguments, "--run-dir", "never stopped"]) == 0
    assert result(story.directory) == result(tmp_path / "never stopped")


def test_a_second_process_on_the_same_directory_is_refused_in_one_line(story: Story) -> None:
    code, err = story.refused
    assert code == 2
    assert err == f"error: run directory {Path('a run/of it')} is in use by another process\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGINT, signal.SIGINT),
        pytest.param(signal.SIGTERM, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_second_signal_ends_it_at_once_whatever_takes_so_long(first: int, second: int) -> None:
    Path("slow.py").write_text(SLOW)
    options = ["--total-steps", "90000", "--checkpoint-every", "0", "--run-dir", "out"]
    with running(
        "python", "-m", "rlkit_es.run", "--import", "slow", *SMALL, *options, CLOSE_SECONDS="60"
    ) as process:
        until(process, lambda: has_rows(Path("out"), 40))
        os.kill(process.pid, first)
        time.sleep(1)
        assert process.poll() is None  # it closes its environments
        ended = stop(process, second)
        assert ended.seconds < 1
        assert ended.code == 128 + second
        assert "Traceback" not in ended.out + ended.err
        assert_whole(Path("out"))


@pytest.mark.slow
def test_ctrl_c_reaches_the_processes_of_environments_and_none_is_left() -> None:
    options = ["--backend", "gymnasium-async", "--total-steps", "90000", "--checkpoint-every", "1000"]
    with running("python", "-m", "rlkit_es.run", *SMALL, *options, "--run-dir", "out") as process:
        until(process, lambda: has_rows(Path("out"), 30))
        ended = stop(process, signal.SIGINT, group=True)
        assert ended.code == 130
        assert ended.err == "interrupted by SIGINT\n"
        assert ended.promptly
        assert nothing_is_left(process)
    command = how_to_go_on(ended.out).command
    with running(*command) as process:
        until_it_goes_on(process, Path("out"))
        process.kill()  # which nobody can clean up after
        process.wait()
        assert nothing_is_left(process)


# The signal comes where a condition's waiter was woken and not yet crossed off: had the handler raised
# there, the next one to be woken would be the one crossed off, and its thread would sleep on.
UNLUCKY = """
import os, signal, threading, time

def notify(self, n=1, notify=threading.Condition.notify):
    if self._waiters and threading.current_thread() is threading.main_thread():
        if os.path.exists("out/metrics.csv") and not os.path.exists("signalled"):
            waiter = self._waiters[0]
            waiter.release()
            open("signalled", "w").close()
            os.kill(os.getpid(), signal.SIGINT)
            self._waiters.remove(waiter)
            return
    notify(self, n)

threading.Condition.notify = notify
"""


def test_a_signal_in_the_middle_of_handing_a_thread_its_work_does_not_hang() -> None:
    Path("unlucky.py").write_text(UNLUCKY)
    options = ["--import", "unlucky", "--total-steps", "90000", "--run-dir", "out"]
    with running("python", "-m", "rlkit_es.run", *SMALL, *options) as process:
        _, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (130, "interrupted by SIGINT\n")


# Any moment: the process signals itself.


class At(NamedTuple):
    holder: Any
    name: str
    call: int


MOMENTS = {
    "as a checkpoint is written": At(os, "fsync", 9),
    "as the first checkpoint is written": At(os, "fsync", 3),
    "between two checkpoints' files": At(checkpoint_file, "write_atomically", 4),
    "as a row is logged": At(CsvLogger, "log", 5),
    "as rows are made safe": At(CsvLogger, "flush", 3),
    "as a segment begins": At(Trainer, "begin_segment", 2),
    "as an environment steps": At(toy_envs.Walk, "step", 300),
    "as an environment is reset": At(toy_envs.Walk, "reset", 60),
    "before the evaluation": At(Trainer, "evaluate", 1),
    "before the picture": At(experiment, "plot_learning_curve", 1),
}


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    directory = tmp_path_factory.mktemp("never") / "stopped"
    assert run.main([*SHORT, "--run-dir", str(directory)]) == 0
    return result(directory)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        *((moment, signal.SIGINT) for moment in MOMENTS),
        *((moment, signal.SIGTERM) for moment in ("as a checkpoint is written", "as an environment steps")),
    ],
)
def test_whenever_the_signal_comes(
    moment: str,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    never_stopped: dict[str, object],
) -> None:
    holder, name, call = MOMENTS[moment]
    function, calls = getattr(holder, name), []

    def signalling(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(holder, name, signalling)
        assert run.main([*SHORT, "--run-dir", "out"]) == 128 + number
    said = capsys.readouterr()
    assert len(calls) == call
    assert said.err == f"interrupted by {number.name}\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert [path.name for path in Path("out").rglob(".*")] == []
    steps = sorted(int(path.stem.removeprefix("step-")) for path in Path("out/checkpoints").glob("step-*"))
    if not steps:
        assert "to go on" not in said.out
        assert run.main([*SHORT, "--run-dir", "out"]) == 0
    else:
        told = how_to_go_on(said.out)
        assert (told.checkpoint, told.again) == (steps[-1], told.at - steps[-1])
        assert run.main(told.arguments) == 0
    assert result(Path("out")) == never_stopped
