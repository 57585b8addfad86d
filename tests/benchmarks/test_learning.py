"""A grid of runs, from its command line to the committed curves."""

import dataclasses
from pathlib import Path

import learning
import pytest
from grids.records import read_committed
from grids.suites import SUITES, Suite, plain


@pytest.fixture
def learn(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(learning, "RESULTS", tmp_path / "results")

    def call(*arguments: str, further: tuple[str, ...] = ("--compile", "off", "--num-envs", "8")) -> int:
        grid = ["--name", "smoke", "--algos", "ppo", "espo", "--envs", "CartPole-v1", "--seeds", "1"]
        return learning.main([*grid, *arguments, "--", *further])

    return call


def test_learning_runs_a_grid_once_and_reports_it(learn, tmp_path, capsys):
    assert learn("--total-steps", "512") == 0
    results = tmp_path / "results" / "smoke"
    runs = read_committed(results)
    assert [run.key for run in runs] == [("CartPole-v1", "espo", 0), ("CartPole-v1", "ppo", 0)]
    assert runs[0].config["total_steps"] == 512
    assert len(runs[0].evaluation["returns"]) == 10
    assert runs[0].training_curve[0][-1] >= 512
    summary = (results / "summary.md").read_text()
    assert "| CartPole-v1 | ppo | 1 |" in summary
    assert (results / "CartPole-v1.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("python -m rlkit_es.run --algo") == 2

    assert learn("--total-steps", "512") == 0
    assert "finished before: 2" in capsys.readouterr().out

    assert learn("--total-steps", "513") == 2
    assert "another total_steps" in capsys.readouterr().err

    (results / "summary.md").unlink()
    assert learn("--report-only") == 0
    assert (results / "summary.md").read_text() == summary


def test_learning_goes_on_with_a_run_that_was_interrupted(learn, tmp_path, capsys):
    further = ("--compile", "off", "--num-envs", "8", "--rollout-steps", "32", "--checkpoint-every", "256")
    assert learn("--algos", "ppo", "--total-steps", "768", further=further) == 0
    (whole,) = read_committed(tmp_path / "results" / "smoke")
    (directory,) = (tmp_path / "runs").rglob("seed0")
    (directory / "evaluation.json").unlink()
    _, last = sorted(directory.glob("checkpoints/step-*"))
    last.unlink()
    capsys.readouterr()
    assert learn("--algos", "ppo", "--total-steps", "768", further=further) == 0
    said = capsys.readouterr().out
    assert "python -m rlkit_es.run --resume" in said
    assert "python -m rlkit_es.run --algo" not in said
    (again,) = read_committed(tmp_path / "results" / "smoke")
    assert again.evaluation == whole.evaluation
    (directory / "evaluation.json").unlink()
    assert learn("--algos", "ppo", "--total-steps", "999", further=further) == 2
    assert "another total_steps" in capsys.readouterr().err


def test_learning_tries_a_failing_cell_twice_and_names_it(learn, tmp_path, capsys):
    assert learn("--algos", "ppo", further=("--device", "nowhere")) == 1
    said = capsys.readouterr()
    assert said.out.count("python -m rlkit_es.run --algo") == 2
    assert "error: ppo CartPole-v1 seed 0 failed: error: device 'nowhere'" in said.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "further", "message"),
    [
        (("--algos", "pppo"), (), "unknown algorithm 'pppo'; did you mean ppo"),
        (("--envs", "CartPol-v1"), (), "unknown environment 'CartPol-v1'; did you mean CartPole-v1"),
        ((), ("--seed", "1"), "--seed after -- is for the grid to set"),
        ((), ("--eval_episodes", "0"), "leaves nothing to report"),
        (("--report-only",), (), "no finished run"),
        (("--suite", "mujocco"), (), "unknown suite 'mujocco'; did you mean mujoco"),
        (("--suite", "mujoco"), (), "no environment 'CartPole-v1' in this suite"),
        (("--variant", "espo"), (), "--variant must be 'name=algo --argument value ...'"),
    ],
)
def test_learning_refuses_before_anything_runs(learn, capsys, tmp_path, arguments, further, message):
    assert learn(*arguments, further=further) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_suite_is_run_in_part_and_its_other_results_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learning, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(learning, "RESULTS", tmp_path / "results")
    settings = ("--compile", "off", "--num-envs", "8", "--eval-every", "256")
    small = Suite(plain("ppo", "espo"), ("CartPole-v1", "Acrobot-v1"), 1, 512, settings)
    monkeypatch.setitem(SUITES, "small", small)
    assert learning.main(["--suite", "small", "--algos", "p*", "--envs", "Cart*"]) == 0
    assert learning.main(["--suite", "small", "--algos", "espo", "--envs", "CartPole-v1"]) == 0
    runs = read_committed(tmp_path / "results" / "small")
    assert [run.variant for run in runs] == ["espo", "ppo"]
    steps, returns = runs[0].evaluations
    assert len(steps) == len(returns) == 3
    assert returns[-1] == runs[0].final_return

    # Elsewhere, with the results alone.
    monkeypatch.setattr(learning, "RUNS", tmp_path / "no runs")
    capsys.readouterr()
    assert learning.main(["--suite", "small", "--envs", "Cart*", "--missing"]) == 0
    assert "cells: 0," in capsys.readouterr().out
    changed = dataclasses.replace(small, total_steps=768)
    monkeypatch.setitem(SUITES, "small", changed)
    assert learning.main(["--suite", "small", "--algos", "ppo", "--envs", "Cart*", "--missing"]) == 0
    said = capsys.readouterr().out
    assert "cells: 1," in said
    assert "left out, run with other settings before: ppo CartPole-v1 seed 0" not in said  # replaced
    runs = read_committed(tmp_path / "results" / "small")
    assert [(run.variant, run.config["total_steps"]) for run in runs] == [("espo", 512), ("ppo", 768)]


def test_a_suite_with_other_settings_needs_a_name_of_its_own(capsys):
    for more in (["--total-steps", "10"], ["--variant", "x=ppo"], ["--", "--gamma", "0.9"]):
        assert learning.main(["--suite", "mujoco", *more]) == 2
        assert "needs a name of its own" in capsys.readouterr().err


def test_a_grid_without_suite_or_name_or_environments_is_refused(capsys):
    assert learning.main(["--algos", "ppo"]) == 2
    assert "--suite or --name is missing; the suites are mujoco" in capsys.readouterr().err
    assert learning.main(["--name", "mine"]) == 2
    assert "--envs is missing" in capsys.readouterr().err


@pytest.mark.parametrize("name", SUITES)
def test_every_variant_and_every_environment_of_every_suite_could_run(name):
    suite = dataclasses.replace(SUITES[name], seeds=1)
    variants = learning.make_cells(dataclasses.replace(suite, envs=suite.envs[:1]), Path("nowhere"))
    envs = learning.make_cells(dataclasses.replace(suite, variants=suite.variants[:1]), Path("nowhere"))
    for cells, expected in ((variants, suite.variants), (envs, suite.envs)):
        assert len({cell.directory for cell in cells}) == len(cells) == len(expected)
    for variant in suite.variants:
        assert variant.name.startswith(variant.algo)


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_what_is_compared_is_in_the_suite(suite):
    named = {name for pair in suite.pairs for name in pair}
    assert named <= {variant.name for variant in suite.variants}


def test_version_5_is_another_set_of_results(learn, tmp_path):
    small = Suite(plain("ppo"), ("InvertedPendulum-v4",), 1, 512, ("--compile", "off", "--num-envs", "8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUITES, "small", small)
        assert learning.main(["--suite", "small", "--v5"]) == 0
    (run,) = read_committed(tmp_path / "results" / "small-v5")
    assert run.env == "InvertedPendulum-v5"
