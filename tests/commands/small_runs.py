"""Real runs of a few hundred steps, for the commands that take one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rlkit_es import cli, run

SMALL = [
    *("--num-envs", "4", "--rollout-steps", "32", "--minibatch-size", "64", "--hidden-sizes", "8"),
    *("--epochs", "2", "--compile", "off", "--backend", "gymnasium"),
]
CARTPOLE = ["--algo", "espo", "--env", "CartPole-v1", "--total-steps", "512", "--checkpoint-every", "256"]
PENDULUM = ["--algo", "ppo", "--env", "Pendulum-v1", "--total-steps", "256", "--eval-episodes", "2"]


def train(directory: Path, *arguments: str) -> Path:
    assert run.main(["--run-dir", str(directory), *SMALL, *arguments]) == 0
    return directory


def copy_of(original: Path, name: str) -> Path:
    shutil.copytree(original, name)
    return Path(name)


def checkpoints(directory: Path) -> list[Path]:
    """In order of their steps."""
    return sorted(directory.glob("checkpoints/step-*"))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def the_error(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says, in one line and with exit code 2."""
    capsys.readouterr()
    assert cli.main(arguments.split()) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")
