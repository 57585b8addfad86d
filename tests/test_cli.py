from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import pytest
import toy_envs

from rlkit_es import cli, run
from rlkit_es.errors import UserError
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.training.config import Config
from rlkit_es.training.presets import PRESETS

ROOT = Path(run.__file__).parents[1]
SMALL = [
    *("--num-envs", "8", "--rollout-steps", "32", "--epochs", "2"),
    *("--eval-episodes", "3", "--compile", "off"),
]
SMALL_TRPO = [
    *("--algo", "trpo", "--env", "CartPole-v1", "--num-envs", "2", "--rollout-steps", "32"),
    *("--critic-epochs", "1", "--eval-episodes", "0", "--compile", "off"),
]


def call(
    *arguments: str, program: Sequence[str] = ("-m", "rlkit_es.run")
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(Path(toy_envs.__file__).parent)])
    return subprocess.run(
        [sys.executable, *program, *arguments],
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
    evaluated = [line.startswith("deterministic evaluation over 3 episodes: ") for line in lines].index(True)
    assert lines[evaluated - 1] == "evaluating 3 episodes"
    assert lines[-1] == "run directory: out"
    names = {path.name for path in Path("out").iterdir()}
    assert names == {
        *("config.json", "metrics.csv", "tensorboard", "checkpoints", "evaluation.json"),
        "learning_curve.png",
    }
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
        ("--env CartPole-v1", f"--algo is needed: one of {', '.join(RECIPES)}"),
        ("--algo", "--algo needs a value"),
        ("--env CartPole-v1 --algo", "--algo needs a value"),
        ("--algo epso", "unknown algorithm 'epso'; did you mean espo"),
        ("--algo=epso", "unknown algorithm 'epso'; did you mean espo"),
        ("--algo d_ppo", "unknown algorithm 'd_ppo'; did you mean sd_ppo"),
        ("--algo trpo --stop ratio_deviation", "stop ratio_deviation cannot apply to a natural step"),
        ("--algo trpo --mask ratio_within", "mask ratio_within cannot be taken at the current policy"),
        ("--algo trpo --constraint kl", "constraint kl cannot apply to a natural step"),
        ("--algo trpo --critic-epochs None", "critic_epochs None (until the policy stops) cannot apply"),
        ("--algo trpo --learning-rate-schedule adaptive_kl", "adaptive_kl cannot apply to a natural step"),
        ("--algo trpo --epochs 5", "epochs has no effect on a natural step"),
        ("--algo ppo --cg-iterations 5", "cg_iterations has no effect on an Adam step"),
        ("--algo espo --constraint-limit 0.2", "constraint_limit has no effect without a constraint"),
        (
            "--algo ppo --max-kl 0.05",
            "max_kl has no effect on ppo (surrogate clip, mask keep_all",
        ),
        (
            "--algo ppo --max-kl 0.05",
            "it is for --mask kl_below or --stop mean_kl or",
        ),
        ("--algo trpo --clip-range 0.1", "clip_range has no effect on trpo"),
        ("--algo ppo --stop-when before", "stop_when has no effect on ppo, which never stops"),
        ("--algo espo --no-such-flag 3", "unknown option --no-such-flag; nothing has a similar name"),
        ("--algo espo --num-env 3 --bogus", "unknown option --num-env; did you mean --num-envs"),
        ("--algo espo --n-steps 3", "unknown option --n-steps; here it is rollout_steps"),
        ("--algo espo --preset nonsense", "unknown preset 'nonsense'; there is reference-espo"),
        ("--algo espo --preset reference-esop", "did you mean reference-espo"),
        ("--algo espo --preset=", "unknown preset ''"),
        ("--preset nonsense", "--algo is needed"),
        ("--preset reference-espo", "--algo is needed"),
        ("--preset", "--preset needs a value"),
        ("--algo espo --preset", "--preset needs a value"),
        ("--algo trpo --preset reference-espo", "preset reference-espo has no settings for trpo; it is for"),
        ("--algo trpo --preset reference-espo --help", "preset reference-espo has no settings for trpo"),
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
        ("--algo espo --hidden-sizes 64 0", "hidden_sizes must be a tuple of positive whole numbers"),
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
    assert [line for line in errors if line.startswith("error: ")] == errors[-1:]
    assert message in errors[-1]
    assert "Traceback" not in "".join(errors)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (("-m", "rlkit_es.run"), "--algo trpo --stop ratio_deviation"),
        (("-c", "import sys; from rlkit_es.cli import main; sys.exit(main())"), "plot nowhere"),
    ],
    ids=["run", "cli"],
)
def test_the_exit_code_reaches_the_shell(program: Sequence[str], arguments: str) -> None:
    done = call(*arguments.split(), program=program)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize(
    "command",
    [
        "run.main(['--help'])",
        *(
            f"cli.main({a})"
            for a in (["algos"], ["algos", "--help"], ["evaluate", "-h"], ["-h"], ["plot", "-h"])
        ),
    ],
)
def test_a_reader_who_has_seen_enough_gets_no_traceback(command: str) -> None:
    program = f"import sys; from rlkit_es import cli, run; sys.exit({command})"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as printing:
        assert printing.stdout is not None
        printing.stdout.close()
        _, errors = printing.communicate(timeout=60)
    assert (errors, printing.returncode) == ("", 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize(
    "command", ["cli.main(['algos'])", "run.main('--algo ppo --env CartPole-v1 --total-steps 100'.split())"]
)
def test_what_is_printed_onto_a_full_disk_is_one_error_line(command: str) -> None:
    program = f"import sys; from rlkit_es import cli, run; sys.exit({command})"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stderr == "error: cannot write standard output: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        "--algo espo --num-envs abc",
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


def help_text(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The help without colour and line breaks."""
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments.split())
    assert stopped.value.code == 0
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).split())


def default_shown(name: str, text: str) -> str:
    found = re.search(rf"--{name.replace('_', '-')}\b.*?\(default: (.*?)\)", text)
    assert found, name
    return found[1]


@pytest.mark.parametrize(
    "arguments",
    [
        *("--help", "-h", "--algo sd_espo --help", "--help --algo trpo"),
        *("--preset reference-espo --help", "-h --algo=trpo --preset=reference-sdpo"),
    ],
)
def test_help_mentions_every_setting(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text(arguments, capsys)
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text, field.name
    # The terminal may break the line at a hyphen.
    assert all(preset in text.replace("- ", "-") for preset in ("--preset", *PRESETS))


@pytest.mark.parametrize(
    ("preset", "algo"), [(None, "ppo_adaptive"), ("reference-espo", "espo"), ("reference-sdpo", "trpo")]
)
def test_help_shows_the_defaults_of_the_algorithm_and_the_preset(
    preset: str | None, algo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_text(f"--algo {algo} --help" + (f" --preset {preset}" if preset else ""), capsys)
    changed = {**RECIPES[algo].defaults, **(PRESETS[preset][algo] if preset else {})}
    assert changed
    for name, value in changed.items():
        if not isinstance(value, bool):
            shown = default_shown(name, text)
            assert shown == (" ".join(map(str, value)) if isinstance(value, tuple) else str(value)), name


def test_settings_win_over_the_preset_wherever_it_is_named() -> None:
    words = ["--algo", "espo", "--preset", "reference-espo", "--num-envs", "3", "--seed", "4"]
    pairs = [words[i : i + 2] for i in range(0, len(words), 2)]
    expected = Config.for_algorithm("espo", preset="reference-espo", num_envs=3, seed=4)
    for order in itertools.permutations(pairs):
        assert run.parse([word for pair in order for word in pair]) == expected
    assert run.parse(["--preset=reference-espo", "--algo=espo", "--num-envs=3", "--seed=4"]) == expected


@pytest.mark.parametrize("first", ["ppo", "trpo"])
def test_the_defaults_are_those_of_the_algorithm_that_is_trained(first: str) -> None:
    # Named twice, as a script that appends its arguments may do.
    try:
        config = run.parse(["--algo", first, "--algo", "ppo_adaptive"])
    except (UserError, SystemExit):
        return
    assert config == Config.for_algorithm(config.algo)


def test_a_run_with_a_preset_records_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--algo espo --env CartPole-v1 --preset reference-espo --run-dir out --compile off"
    assert run.main([*arguments.split(), "--total-steps", "1024", "--eval-episodes", "1"]) == 0
    assert "espo on CartPole-v1: 1,024 steps, seed 0" in capsys.readouterr().out.splitlines()
    settings = json.loads(Path("out/config.json").read_text())["config"]
    assert settings["total_steps"] == 1024
    assert settings["eval_episodes"] == 1
    for name, value in PRESETS["reference-espo"]["espo"].items():
        if name != "total_steps":
            assert settings[name] == value, name
    with Path("out/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert 1024 < int(row["env_steps"]) <= 2048
    assert 1 <= float(row["policy_steps"]) == float(row["critic_steps"]) <= 320


def failed_line_searches(output: str) -> list[tuple[str, ...]]:
    return re.findall(r"line search failed in (\d+) of (\d+) updates", output)


def test_failed_line_searches_are_said_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    # A step this short is lost in rounding: nothing improves, whatever the length.
    assert run.main([*SMALL_TRPO, "--total-steps", "150", "--max-kl", "1e-30"]) == 0
    assert failed_line_searches(capsys.readouterr().out) == [("3", "3")]
    assert run.main([*SMALL_TRPO, "--total-steps", "150", "--run-dir", "other"]) == 0
    assert failed_line_searches(capsys.readouterr().out) == []


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
    assert capsys.readouterr().err == (
        "error: run directory out already holds a run; choose another, or go on with it: --resume out\n"
    )


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
    assert cli.main(["plt"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'plt'; did you mean plot?\n"


def test_the_console_script_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert cli.main([]) == 2
    output = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert output.count(command) >= 2


def exit_code(arguments: Sequence[str]) -> int | str | None:
    """Returned, or raised by the parser of the command line."""
    try:
        return cli.main(arguments)
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([command, "--help"]) == 0
    captured = capsys.readouterr()
    assert "usage" in captured.out.lower()
    assert captured.err == ""
