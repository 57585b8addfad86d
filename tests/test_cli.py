from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import toy_envs

from rlkit_es import cli, run
from rlkit_es.training.config import Config

ROOT = Path(run.__file__).parents[1]
SMALL = [
    *("--num-envs", "8", "--rollout-steps", "32", "--epochs", "2"),
    *("--eval-episodes", "3", "--compile", "off"),
]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(Path(toy_envs.__file__).parent)])
    return subprocess.run(
        [sys.executable, "-m", "rlkit_es.run", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )


@pytest.mark.parametrize(("algo", "env"), [("espo", "CartPole-v1"), ("sd_ppo", "HalfCheetah-v4")])
def test_a_run_from_the_command_line(algo: str, env: str) -> None:
    done = call("--algo", algo, "--env", env, "--total-steps", "1000", "--run-dir", "out", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    lines = done.stdout.splitlines()
    assert f"{algo} on {env}: 1,000 steps, seed 0" in lines
    assert sum(line.startswith(f"{algo} {env} ") for line in lines) >= 4
    assert any(line.startswith("backend ") for line in lines)
    assert any(line.startswith("threads: torch 1") for line in lines)
    assert any(line.startswith("deterministic evaluation over 3 episodes: ") for line in lines)
    assert lines[-1] == "run directory: out"
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"config.json", "metrics.csv", "tensorboard", "evaluation.json", "learning_curve.png"}
    assert json.loads(Path("out/config.json").read_text())["config"]["epochs"] == 2
    assert json.loads(Path("out/evaluation.json").read_text())["episodes"] == 3


def test_an_error_is_one_line_and_no_traceback() -> None:
    done = call("--algo", "ppo", "--env", "toy_envs:ToyNaN-v0", "--total-steps", "1000", *SMALL)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert re.search("iteration 1: environment 0 returned a non-finite observation", errors[0])
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--env CartPole-v1", "--algo is needed: one of ppo, espo, sd_ppo, sd_espo"),
        ("--algo", "--algo is needed"),
        ("--algo epso", "unknown algorithm 'epso'; did you mean espo"),
        ("--algo=epso", "unknown algorithm 'epso'; did you mean espo"),
        ("--algo espo --env HalfCheeta-v4", "did you mean HalfCheetah-v4"),
        ("--algo espo --env no_such_module:Walk-v0", "cannot import 'no_such_module'"),
        ("--algo espo --env toy_envs:ToyWalk-v0 --backend envpool", "EnvPool does not have"),
        ("--algo espo --num-envs 0", "num_envs must be a whole number of at least 1, got 0"),
        ("--algo espo --num-envs 2 --rollout-steps 4 --minibatch-size 9", "minibatch_size 9 is larger"),
        ("--algo espo --deviation-threshold -1", "deviation_threshold must be a number above 0"),
        ("--algo espo --deviation-threshold=-1", "deviation_threshold must be a number above 0"),
        ("--algo espo --gamma 2", "gamma must be a number at least 0 and at most 1, got 2.0"),
        ("--algo espo --gamma nan", "gamma must be a number"),
        ("--algo espo --env CartPole-v1 --device cuda:99", "device 'cuda:99' cannot be used here"),
        ("--algo espo --hidden-sizes 64 0", "hidden_sizes must be positive whole numbers"),
        ("--algo ppo --env toy_envs:ToyNaN-v0 --total-steps 100", "environment 0 returned"),
        ("--algo ppo --env CartPole-v1 --total-steps 100 --run-dir file/run", "cannot write run directory"),
    ],
)
def test_bad_input_is_one_error_line_and_exit_code_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("no directory")
    assert run.main(arguments.split()) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("error:")] == errors[-1:]
    assert message in errors[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        "--algo espo --num-envs abc",
        "--algo espo --no-such-flag 3",
        "--algo espo --num-env 3 --bogus",
        "--algo espo --backend envpol",
        "--algo espo --gamma",
        "--algo espo stray",
    ],
)
def test_what_cannot_be_parsed_is_exit_code_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments.split())
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out + captured.err
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize("arguments", ["--help", "-h", "--algo sd_espo --help"])
def test_help_mentions_every_setting(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments.split())
    assert stopped.value.code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text, field.name


def test_settings_reach_the_run_over_the_defaults_of_the_algorithm() -> None:
    arguments = "--algo sd_espo --hidden-sizes 8 9 --no-normalize-rewards --critic-epochs None --seed 5"
    config = run.parse(arguments.split())
    expected = Config.for_algorithm(
        "sd_espo", hidden_sizes=(8, 9), normalize_rewards=False, critic_epochs=None, seed=5
    )
    assert config == expected


def test_the_default_run_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--algo", "ppo", "--env", "CartPole-v1", "--total-steps", "300", *SMALL]) == 0
    (directory,) = Path("runs/CartPole-v1/ppo").iterdir()
    assert directory.name.startswith("seed0-")
    assert capsys.readouterr().out.splitlines()[-1] == f"run directory: {directory}"


def test_an_existing_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--algo", "ppo", "--env", "CartPole-v1", "--total-steps", "300", "--run-dir", "out", *SMALL]
    assert run.main(arguments) == 0
    capsys.readouterr()
    assert run.main(arguments) == 2
    assert capsys.readouterr().err == "error: run directory out already holds a run; choose another\n"


def test_an_interrupted_run_says_so_and_keeps_its_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(toy_envs.Walk):
        steps = 0

        def step(self, action: object) -> tuple:
            self.steps += 1
            if self.steps > 100:
                raise KeyboardInterrupt
            return super().step(action)

    gym.register("ToyInterrupted-v0", Interrupted, disable_env_checker=True)
    try:
        arguments = [
            "--algo",
            "ppo",
            "--env",
            "ToyInterrupted-v0",
            "--total-steps",
            "9999",
            "--run-dir",
            "out",
        ]
        assert run.main([*arguments, *SMALL]) == 130
    finally:
        del gym.registry["ToyInterrupted-v0"]
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert len(Path("out/metrics.csv").read_text().splitlines()) == 4


def test_the_console_script_trains(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--algo", "espo", "--env", "CartPole-v1", "--total-steps", "300", "--run-dir", "out"]
    assert cli.main(["train", *arguments, *SMALL]) == 0
    assert Path("out/learning_curve.png").exists()
    assert "run directory: out" in capsys.readouterr().out


def test_the_console_script_refuses_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian", "--algo", "espo"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'trian'; did you mean train?\n"


def test_the_console_script_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert cli.main([]) == 2
    assert capsys.readouterr().out.count("train") >= 2
