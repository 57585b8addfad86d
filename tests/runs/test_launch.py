from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import toy_envs
from run_results import result, rows

from rlkit_es import run
from rlkit_es.runs.checkpoint_file import read_checkpoint
from rlkit_es.runs.launch import is_of

ROOT = Path(run.__file__).parents[1]
PATIENCE_SECONDS = 60
RUN = [
    *("--algo", "sd_espo", "--env", "toy_envs:ToyWalk-v0", "--num-envs", "4", "--rollout-steps", "16"),
    *("--minibatch-size", "32", "--epochs", "2", "--critic-epochs", "2", "--hidden-sizes", "8"),
    *("--eval-episodes", "2", "--eval-every", "150", "--checkpoint-every", "150"),
]
TWO = ("--standalone", "--nproc-per-node", "2")
# What a rank does in place of the command, with `RANK` and the number of restarts at hand.
SCRIPT = """
import os, signal, sys, time, toy_envs
from rlkit_es import run
from rlkit_es.training.trainer import Trainer

rank, restarts = int(os.environ["RANK"]), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
iterate, arguments = Trainer._iterate, sys.argv[1:]

{body}

sys.exit(run.main(arguments))
"""
DIES = """
def killed(self, collector):
    if rank == DYING and restarts == 0 and self.progress.env_steps > 300:
        os.kill(os.getpid(), signal.SIGKILL)
    return iterate(self, collector)

Trainer._iterate = killed
"""
FAILS = """
from rlkit_es.errors import UserError

def failing(self, collector):
    if rank == 1 and self.progress.env_steps > 100:
        raise UserError("the dog ate it")
    return iterate(self, collector)

Trainer._iterate = failing
"""
SLOW = """
def slow(self, collector):
    time.sleep(0.1)
    return iterate(self, collector)

Trainer._iterate = slow
"""
DISAGREES = 'arguments += ["--seed", str(rank)]'


@contextmanager
def started(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command of its own; whatever is left of it ends here."""
    path = os.pathsep.join([str(ROOT), str(Path(toy_envs.__file__).parent), os.getcwd()])
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # torchrun ends what it began
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def torchrun(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a launch that ends by itself."""
    with started("torch.distributed.run", *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, out, err


def scripted(body: str) -> str:
    Path("work.py").write_text(SCRIPT.format(body=body))
    return "work.py"


def errors(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error:")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by two ranks that nothing happened to."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    code, out, err = torchrun(
        *TWO, "-m", "rlkit_es.run", *RUN, "--total-steps", "600", "--run-dir", str(directory)
    )
    assert code == 0, err
    assert out.count("run directory:") == 1  # one of them speaks
    assert "2 ranks (2 on this machine), each with 2 of 4 environments and 16 of 32 samples" in out
    return directory


def test_two_ranks_train_and_the_first_alone_writes(whole: Path) -> None:
    steps = [int(row["env_steps"]) for row in rows(whole)]
    assert steps == sorted(set(steps))
    assert 600 <= steps[-1] < 600 + 64
    assert 40 < steps[0] <= 64  # of all environments
    assert json.loads((whole / "config.json").read_text())["world_size"] == 2
    names = read_checkpoint(max((whole / "checkpoints").glob("step-*"))).tensors
    assert {"generator.action_noise", "generator.action_noise.rank1", "reward_scaler.mean"} <= set(names)


def test_a_run_of_two_ranks_can_be_evaluated_and_gone_on_with_by_one(
    whole: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(whole), str(copy)], check=True)
    arguments = ["--import", "toy_envs", "--resume", str(copy), "--total-steps", "700"]
    assert run.main(arguments) == 0
    assert "ranks were 2 and are 1" in capsys.readouterr().out
    assert int(rows(copy)[-1]["env_steps"]) >= 700


@pytest.mark.parametrize(
    ("rank", "launch"),
    [
        (1, TWO),
        # Where the processes that are started anew meet in the same place.
        pytest.param(0, ("--nproc-per-node", "2", "--master-port", "PORT"), marks=pytest.mark.slow),
    ],
)
def test_a_killed_rank_is_started_again_and_the_run_ends_as_if_it_never_was(
    whole: Path, rank: int, launch: tuple[str, ...]
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    launch = tuple(port if word == "PORT" else word for word in launch)
    script = scripted(DIES.replace("DYING", str(rank)))
    code, out, err = torchrun(*launch, "--max-restarts", "1", script, *RUN, "--total-steps", "600")
    assert code == 0, err
    (directory,) = Path("runs").glob("*/*/*")  # found again without --run-dir
    assert f"going on with {directory} from " in out
    assert result(directory) == result(whole)


def test_a_stopped_run_goes_on_to_the_same_end(whole: Path) -> None:
    arguments = (*RUN, "--total-steps", "600", "--run-dir", "run")
    with started("torch.distributed.run", *TWO, scripted(SLOW), *arguments) as process:
        until(lambda: len(list(Path("run/checkpoints").glob("step-*"))) > 1, process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    (command,) = re.findall(r"^to go on: (.*)$", out, re.MULTILINE)
    assert command == "torchrun --nproc-per-node 2 -m rlkit_es.run --resume run --import toy_envs"
    code, out, err = torchrun(*TWO, *command.split()[3:])
    assert code == 0, err
    assert result(Path("run")) == result(whole)


AGENT = """
import os, rlkit_es, toy_envs

class Stops(rlkit_es.Callback):
    def on_iteration(self, trainer, metrics):
        if os.environ["RANK"] == "1" and trainer.progress.iteration == 2:
            trainer.request_stop("rank 1 has had enough")

class Writes(rlkit_es.Logger):
    def log(self, metrics):
        print("logged", int(metrics["iteration"]))

small = dict(num_envs=4, rollout_steps=16, minibatch_size=32, eval_episodes=2)
agent = rlkit_es.TRPO("toy_envs:ToyWalk-v0", run_dir="here", **small)
agent.learn(1000, callbacks=[Stops()], loggers=[Writes()])
path = agent.save("model")
mean = float(sum(p.double().sum() for p in agent.policy.parameters()))
with open(f"learned-{os.environ['RANK']}", "w") as file:  # lines of two processes may mix
    print(mean.hex(), agent.env_steps, rlkit_es.load(path).env_steps, file=file)
"""


@pytest.mark.slow
def test_a_script_trains_by_two_ranks() -> None:
    Path("agent.py").write_text(AGENT)
    code, out, err = torchrun(*TWO, "agent.py")
    assert code == 0, err
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("logged")] == ["logged 1", "logged 2"]
    # They learned the same, and stopped together.
    assert Path("learned-0").read_text() == Path("learned-1").read_text() != ""
    assert len(rows(Path("here"))) == 2


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "arguments", "message"),
    [
        ("", ["--num-envs", "5"], "num_envs 5 does not divide over 2 ranks: make it a multiple of 2"),
        (DISAGREES, [], "rank 1 has seed 1 and rank 0 0: start every rank with the same command"),
        (FAILS, [], "rank 1: the dog ate it"),
    ],
)
def test_what_cannot_be_is_said_once_and_all_ranks_end(body: str, arguments: list[str], message: str) -> None:
    started_at = time.monotonic()
    code, _, err = torchrun(*TWO, scripted(body), *RUN, "--total-steps", "600", *arguments)
    assert code != 0
    (line,) = errors(err)
    assert line.startswith(f"error: {message}")
    assert set(re.findall(r"exitcode  : (-?\d+)", err)) <= {"2", "-15"}
    assert time.monotonic() - started_at < PATIENCE_SECONDS


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT of their rendezvous is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE 2"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "RANK and WORLD_SIZE must be whole numbers"),
    ],
)
def test_a_launch_without_a_rendezvous_is_refused(
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run.main([*RUN, "--total-steps", "64"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_other_ranks_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run.main([*RUN, "--total-steps", "64"]) == 2
    assert capsys.readouterr() == ("", "")


def test_a_launch_knows_its_own_runs_alone(tmp_path: Path) -> None:
    assert not is_of(tmp_path, ["id host 1"])
    (tmp_path / "config.json").write_text(json.dumps({"launch": ["id host 1", "id other 1"]}))
    assert is_of(tmp_path, ["id host 2", "id other 1"])
    assert not is_of(tmp_path, ["id host 2"])
    assert not is_of(tmp_path, [])
