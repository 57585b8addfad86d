from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
import toy_envs

from rlkit_es import cli, load


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_runs.train(tmp_path_factory.mktemp("cartpole") / "run", *small_runs.CARTPOLE)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    env = ["--env", "toy_envs:ToyWalk-v0", "--algo", "trpo", "--critic-epochs", "1"]
    few = ["--total-steps", "200", "--eval-episodes", "0"]
    arguments = [argument for argument in small_runs.SMALL if argument not in ("--epochs", "2")]
    directory = tmp_path_factory.mktemp("walk") / "run"
    assert cli.main(["train", "--run-dir", str(directory), *arguments, *env, *few]) == 0
    return directory


def line(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The only one that the command prints, but for where it wrote."""
    capsys.readouterr()
    assert cli.main(["evaluate", *arguments.split()]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    printed, *wrote = captured.out.splitlines()
    assert len(wrote) == ("--output" in arguments)
    assert all(Path(said.removeprefix("wrote ")).is_file() for said in wrote)
    return printed


def test_the_evaluation_of_the_run_is_repeated_exactly(
    cartpole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in cartpole.rglob("*") if path.is_file()}
    printed = line(f"{cartpole} --output again.json", capsys)
    assert Path("again.json").read_bytes() == (cartpole / "evaluation.json").read_bytes()
    told = json.loads(Path("again.json").read_text())
    assert printed == (
        f"CartPole-v1 espo at {told['env_steps']:,} steps: "
        f"{told['return_mean']:.1f} +- {told['return_std']:.1f} over 10 episodes"
    )
    assert {path: path.read_bytes() for path in cartpole.rglob("*") if path.is_file()} == before


def test_a_model_file_is_evaluated_like_its_run(cartpole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(cartpole).save("model")
    assert line("model.safetensors", capsys) == line(str(cartpole), capsys)
    assert line(str(cartpole / "checkpoints"), capsys) == line(str(cartpole), capsys)


def test_the_checkpoint_the_seed_and_the_episodes_may_be_chosen(
    cartpole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for number, path in enumerate(small_runs.checkpoints(cartpole)):
        step = int(path.stem.removeprefix("step-"))
        assert f"espo at {step:,} steps" in line(f"{cartpole} --checkpoint {step}", capsys)
        for seed in (1, 2):
            line(f"{cartpole} --checkpoint {step} --seed {seed} --episodes 3 --output {number}", capsys)
            found[step, seed] = tuple(json.loads(Path(f"{number}.json").read_text())["returns"])
    assert len(found) == len(set(found.values())) >= 4
    assert all(len(returns) == 3 for returns in found.values())
    assert line(f"{cartpole} --checkpoint best --episodes 1", capsys).endswith(" over 1 episode")


def test_sampled_actions_are_others_and_repeatable(
    cartpole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mode = line(str(cartpole), capsys)
    sampled = [line(f"{cartpole} --stochastic", capsys) for _ in range(2)]
    assert sampled[0] == sampled[1]
    assert sampled[0].endswith(" over 10 episodes of sampled actions")
    assert sampled[0].removesuffix(" of sampled actions") != mode


def test_a_damaged_last_checkpoint_is_passed_over_with_a_warning(
    cartpole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = small_runs.copy_of(cartpole, "broken")
    *_, good, last = small_runs.checkpoints(broken)
    small_runs.damage(last)
    steps = [int(path.stem.removeprefix("step-")) for path in (good, last)]
    assert cli.main(["evaluate", "broken"]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(rf"warning: .*{last.name} is damaged: .*; taking the one before it\n", captured.err)
    assert f"at {steps[0]:,} steps" in captured.out
    assert "is damaged" in small_runs.the_error(f"evaluate broken --checkpoint {steps[1]}", capsys)
    for path in small_runs.checkpoints(broken):
        path.write_bytes(path.read_bytes()[:-100])
    assert "is damaged" in small_runs.the_error("evaluate broken", capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere", "cannot read nowhere: No such file or directory"),
        ("empty", "no checkpoint last in empty: there is none at all"),
        ("text", "text is damaged or no checkpoint: "),
        ("x" * 300, "File name too long"),
        ("{run} --checkpoint 77", "no checkpoint 77 in "),
        ("{run} --checkpoint worst", "no checkpoint worst in "),
        ("{run} --checkpoint -1", "no checkpoint -1 in "),
        ("{model} --checkpoint best", "is one file: a checkpoint is chosen among those of a run directory"),
        ("{run} --episodes 0", "--episodes must be a whole number of at least 1, got 0"),
        ("{run} --episodes -4", "--episodes must be a whole number of at least 1, got -4"),
        ("{run} --seed -1", "--seed must be a whole number of at least 0, got -1"),
        ("{run} --seed 99999999999999999999", "--seed must be at most 9223372036854775807"),
        ("{model} --output {model}", "would replace the model itself"),
        ("{stem} --output {model}", "would replace the model itself"),
        ("{run} --output .", "--output must be the name of a file"),
        ("{run} --output {run}", "--output must be the name of a file"),
        ("{run} --import no_such_module", "cannot import 'no_such_module'"),
        ("{run} --import", "--import needs a value"),
    ],
)
def test_bad_input_is_one_error_line_and_exit_code_2(
    cartpole: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("text").write_text("no checkpoint")
    model = small_runs.checkpoints(cartpole)[-1]
    assert message in small_runs.the_error(
        f"evaluate {arguments.format(run=cartpole, model=model, stem=model.with_suffix(''))}", capsys
    )


def test_what_cannot_be_written_is_said_after_the_result(
    cartpole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(cartpole), "--output", "no/such/file.json"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: cannot write no/such/file.json: No such file or directory\n"
    assert captured.out.startswith("CartPole-v1 espo at ")


IN_A_FRESH_PROCESS = "import sys; from rlkit_es import cli; sys.exit(cli.main(sys.argv[1:]))"


def test_a_module_of_ones_own_is_imported_only_when_it_is_asked_for(walk: Path) -> None:
    paths = [str(Path(cli.__file__).parents[1]), str(Path(toy_envs.__file__).parent)]
    program = f"import sys; sys.path[:0] = {paths}; {IN_A_FRESH_PROCESS}"

    def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "evaluate", str(walk), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused, done = evaluate(), evaluate("--import", "toy_envs", "--episodes", "2")
    assert refused.returncode == 2
    assert refused.stdout == ""
    (error,) = refused.stderr.splitlines()
    assert "give --import toy_envs on the command line" in error
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"toy_envs:ToyWalk-v0 trpo at \d+ steps: .* over 2 episodes\n", done.stdout)


def test_numbers_are_finite(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line(f"{walk} --import toy_envs --output walk.json --stochastic", capsys)
    assert np.isfinite(json.loads(Path("walk.json").read_text())["returns"]).all()
