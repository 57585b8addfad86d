"""What goes wrong around a run ends it with one line that says what, and leaves what was there before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import toy_envs

from rlkit_es import run
from rlkit_es.errors import NonFiniteError
from rlkit_es.runs import experiment
from rlkit_es.runs.checkpoint_file import read_checkpoint
from rlkit_es.training.callbacks import Callback
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer

ROOT = Path(run.__file__).parents[1]
PATIENCE_SECONDS = 60
SMALL = [
    *("--algo", "sd_espo", "--num-envs", "2", "--rollout-steps", "32", "--minibatch-size", "32"),
    *("--epochs", "2", "--critic-epochs", "2", "--hidden-sizes", "8", "--compile", "off"),
    *("--eval-episodes", "2", "--total-steps", "400", "--checkpoint-every", "150"),
]
WALK = [*SMALL, "--env", "faulty:ToyWalk-v0", "--run-dir", "out"]
# Of the two environments together. An iteration is 64 calls, some 52 of which are steps; the second
# segment begins with call 193.
CALL = 301

# A module for --env: the environment's `method` does `fault` when the time has come.
FAULTY = """
import os, shutil, signal
from pathlib import Path
import toy_envs

calls = 0

def {method}(self, *arguments, original=toy_envs.Walk.{method}, **options):
    global calls
    calls += 1
    result = original(self, *arguments, **options)
    if {when}:
        {fault}
    return result

toy_envs.Walk.{method} = {method}
"""


TRAINED = "any(int(path.stem[5:]) >= 400 for path in Path('out/checkpoints').glob('step-*'))"


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what is wrong."""
        assert self.code == 2, self
        assert "Traceback" not in self.out + self.err
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


def write_module(fault: str, method: str = "step", when: str = f"calls == {CALL}") -> None:
    Path("faulty.py").write_text(FAULTY.format(fault=fault, method=method, when=when))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Train in this process, in the current directory."""
    monkeypatch.syspath_prepend(Path.cwd())

    def train(*arguments: str) -> Ended:
        with monkeypatch.context() as patched:
            for method in ("step", "reset"):
                patched.setattr(toy_envs.Walk, method, getattr(toy_envs.Walk, method))  # undone at the end
            sys.modules.pop("faulty", None)
            code = run.main(arguments)
        return Ended(code, *capfd.readouterr())

    return train


def start(*arguments: str, limit_bytes: int | None = None, program: tuple[str, ...] = ()) -> Ended:
    """Train in a process of its own, in the current directory."""

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    path = os.pathsep.join([str(ROOT), str(Path(toy_envs.__file__).parent), os.getcwd()])
    done = subprocess.run(
        [*program, sys.executable, "-m", "rlkit_es.run", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        preexec_fn=limit if limit_bytes else None,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def checkpoints(directory: Path = Path("out")) -> list[int]:
    """Environment steps of the ones that are there, every one of which can be read."""
    assert [path.name for path in directory.rglob(".*")] == []
    for path in (directory / "checkpoints").iterdir():
        read_checkpoint(path)
    paths = sorted((directory / "checkpoints").glob("step-*"))
    return [int(path.stem.removeprefix("step-")) for path in paths]


# What environments do.


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise ValueError('the joint\\nbroke')", r"environment \d raised ValueError: the joint"),
        ("raise ZeroDivisionError", r"environment \d raised ZeroDivisionError"),
        ("raise toy_envs.gym.error.Error('gone')", r"environment \d raised Error: gone"),
        ("result[0][1] = float('nan')", r"environment \d returned a non-finite observation"),
        ("result[0][1] = float('inf')", r"environment \d returned a non-finite observation"),
        ("result[0][1] = -float('inf')", r"environment \d returned a non-finite observation"),
        (
            "result = (result[0], float('nan'), *result[2:])",
            r"environment \d returned a non-finite reward",
        ),
        ("result = (result[0], float('inf'), *result[2:])", r"environment \d returned a non-finite reward"),
        ("result = result[0][:2], *result[1:]", r"environment \d: step returned .* as observation"),
        ("result = *result[:2], None, *result[3:]", r"environment \d: step returned None as terminated"),
    ],
)
def test_a_fault_of_an_environment_is_one_line(fault: str, message: str, here: Callable[..., Ended]) -> None:
    write_module(fault)
    ended = here(*WALK)
    assert re.match(rf"(iteration \d: )?{message}", ended.error)
    (start, last) = checkpoints()
    assert start == 0
    assert 150 <= last <= 213
    assert "to go on: python -m rlkit_es.run --resume out --import faulty\n" in ended.out


@pytest.mark.parametrize("call", [1, 2, 20], ids=["at first", "at first, the second", "later"])
def test_a_fault_in_a_reset_is_one_line(call: int, here: Callable[..., Ended]) -> None:
    write_module("raise ValueError('no ground')", "reset", f"calls == {call}")
    assert re.match(r"environment \d raised ValueError: no ground", here(*WALK).error)
    assert checkpoints() == [0]


def test_a_run_goes_on_when_its_environment_is_mended(here: Callable[..., Ended]) -> None:
    write_module("raise ValueError('the joint broke')")
    assert here(*WALK).code == 2
    write_module("pass")
    assert here("--resume", "out", "--import", "faulty").code == 0
    assert here(*WALK[:-1], "never stopped").code == 0
    last = [read_checkpoint(max(Path(d).glob("checkpoints/step-*"))) for d in ("out", "never stopped")]
    assert last[0].tensors.keys() == last[1].tensors.keys()
    assert all(torch.equal(x, last[1].tensors[name]) for name, x in last[0].tensors.items())


def test_a_fault_in_the_evaluation_leaves_the_trained_policy(here: Callable[..., Ended]) -> None:
    write_module("raise ValueError('the joint broke')", when=TRAINED)
    ended = here(*WALK)
    assert re.match(r"environment \d raised ValueError: the joint broke", ended.error)
    assert checkpoints()[-1] >= 400
    assert " so 0 steps will be done again" in ended.out
    write_module("pass")
    assert here("--resume", "out", "--import", "faulty").code == 0
    assert Path("out/evaluation.json").exists()


def test_numbers_that_overflow_are_named(here: Callable[..., Ended]) -> None:
    write_module("result[0][1] = 3e38")
    assert re.match(r"iteration \d+: .*(finite|overflow)", here(*WALK).error)
    assert checkpoints()[0] == 0


# What happens to files.


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("shutil.rmtree('out')", "out/"),
        ("os.remove('out/metrics.csv')", "out/metrics.csv"),
        ("os.remove('out/metrics.csv'); os.mkdir('out/metrics.csv')", "out/metrics.csv"),
        ("shutil.move('out/metrics.csv', 'elsewhere'); Path('out/metrics.csv').touch()", "out/metrics.csv"),
        ("shutil.rmtree('out/checkpoints')", "out/checkpoints/step-"),
        ("shutil.rmtree('out/checkpoints'); Path('out/checkpoints').touch()", "out/checkpoints/step-"),
        ("shutil.rmtree('out/tensorboard')", "out/tensorboard"),
        ("os.mkdir('out/evaluation.json')", "out/evaluation.json"),
        ("os.mkdir('out/learning_curve.png')", "out/learning_curve.png"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(fault: str, named: str, here: Callable[..., Ended]) -> None:
    write_module(fault)
    error = here(*WALK).error
    assert error.startswith(f"cannot write {named}")
    assert len(error) < 200


def test_a_directory_that_is_deleted_ends_a_process_with_one_line() -> None:
    write_module("shutil.rmtree('out')")
    assert start(*WALK).error.startswith("cannot write out/")


def test_a_full_disk_ends_a_process_with_one_line_and_more_room_lets_it_go_on(
    here: Callable[..., Ended],
) -> None:
    write_module("pass")
    size = 25_000  # room for a checkpoint, and for the metrics of a few hundred steps
    longer = [*WALK, "--total-steps", "1500", "--checkpoint-every", "500"]
    ended = start(*longer, limit_bytes=size)
    assert re.match("cannot write out/(metrics.csv|tensorboard|checkpoints/.*): File too large", ended.error)
    assert checkpoints()
    ended = here("--resume", "out", "--import", "faulty")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("room", range(40, 200, 20))
def test_a_full_file_system_wherever_it_is_hit(room: int) -> None:
    """A file system in memory, in a name space of the process's own."""
    mount = f"mount -t tmpfs -o size={room}k none disk"
    Path("disk").mkdir()
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    write_module("pass")
    program = ("unshare", "-m", "sh", "-c", f'{mount} && "$@"; code=$?; cp -r disk copy; exit $code', "sh")
    ended = start(*WALK[:-1], "disk/out", "--total-steps", "5000", program=program)
    assert re.match("cannot write disk/out/.*: No space left on device", ended.error)
    if list(Path("copy/out/checkpoints").iterdir()):
        checkpoints(Path("copy/out"))


# What happens to processes.


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise ValueError('the joint broke')", r"environment \d raised ValueError: the joint broke"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "environment .*"),
        ("result = result[:4]", r"environment \d: step must return \(observation, reward, "),
    ],
    ids=["raises", "is killed", "returns too little"],
)
def test_an_environment_in_a_process_of_its_own_too(fault: str, message: str) -> None:
    write_module(fault, when="calls == 150")  # each process counts for itself
    ended = start(*WALK, "--backend", "gymnasium-async")
    assert re.match(message, ended.error)
    assert checkpoints()[-1] >= 150


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 20])
def test_a_reset_in_a_process_of_its_own_too(call: int) -> None:
    write_module("raise ValueError('no ground')", "reset", f"calls == {call}")
    ended = start(*WALK, "--backend", "gymnasium-async")
    assert re.match(r"environment \d raised ValueError: no ground", ended.error)


# What happens to the policy.


class Spoil(Callback):
    """Puts NaN into the policy when iteration ``at`` has ended."""

    def __init__(self, at: int, part: str) -> None:
        self.at, self.part = at, part

    def on_iteration(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if metrics["iteration"] == self.at:
            for parameter in getattr(trainer.policy, self.part).parameters():
                parameter.data.fill_(float("nan"))


@pytest.mark.parametrize("algo", ["sd_espo", "trpo"])
@pytest.mark.parametrize(
    ("part", "message"), [("actor", "the policy's action is not finite"), ("critic", ".* is not finite")]
)
@pytest.mark.parametrize("env", ["InvertedPendulum-v4", "CartPole-v1"])
def test_a_policy_that_is_not_finite_is_named_and_never_saved(
    algo: str, part: str, message: str, env: str
) -> None:
    # The third iteration is the last of its segment.
    if env == "CartPole-v1" and part == "actor":
        message = ".* is not finite"  # an action is a number whatever the policy is
    for at, iteration in ((2, "3: " + message), (3, rf"3: policy\.{part}\..* is not finite")):
        directory = Path(f"out{at}")
        few = {} if algo == "trpo" else {"epochs": 2}
        config = Config.for_algorithm(
            algo,
            env=env,
            num_envs=4,
            rollout_steps=16,
            minibatch_size=32,
            critic_epochs=2,
            hidden_sizes=(8,),
            compile="off",
            checkpoint_every=150,
            run_dir=directory,
            **few,
        )
        trainer = Trainer(config)
        with pytest.raises(NonFiniteError, match=f"^iteration {iteration}"):
            experiment.run(trainer, 400, progress=False, callbacks=[Spoil(at, part)])
        trainer.close()
        assert checkpoints(directory) == [0]


def test_a_loss_that_overflows_is_named(here: Callable[..., Ended]) -> None:
    write_module("result = (result[0], 1e25, *result[2:])")
    ended = here(*WALK, "--no-normalize-rewards")
    assert re.match(r"iteration \d: \w+ is not finite", ended.error)
    assert "to go on" not in ended.out  # it would do the same again
    assert len(checkpoints()) == 2
