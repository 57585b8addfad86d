"""The benchmark scripts: their statistics, and a small run of each."""

import csv
import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import environments as environment_table
import learning
import throughput
from machine import cpu_model
from measured import Effort, environments, updates
from seed_statistics import band, bootstrap_interval, interquartile_mean, sample_std, thin
from throughput_plan import ENVS, FASTER_ON_ATARI, FASTER_THAN_PEERS, GROUPS, Bar, Plan, Row, make_plan
from work_examples import by_name
from workers import MeasurementError, Worker

TINY = Effort(window_seconds=0.01, training_seconds=0.01, warmup_iterations=1, startup_steps=2048)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 20])
def test_interquartile_mean_drops_a_quarter_of_the_values_at_either_end(count):
    values = list(np.random.default_rng(count).normal(size=count))
    kept = list(values)
    for _ in range(count // 4):
        kept.remove(min(kept))
        kept.remove(max(kept))
    assert interquartile_mean(values) == pytest.approx(sum(kept) / len(kept))


def test_interquartile_mean_ignores_an_outlier():
    assert interquartile_mean([1.0, 2.0, 3.0, 4.0]) == interquartile_mean([-1e9, 3.0, 2.0, 1e9])


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(5.0, 2.0, size=20)) for _ in range(200)]
    covered = np.mean([low <= 5.0 <= high for low, high in intervals])
    assert 0.87 <= covered <= 0.99


def test_bootstrap_interval_is_repeatable_and_holds_the_mean():
    values = [1.0, 2.0, 10.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    low, high = bootstrap_interval(values)
    assert min(values) <= low < np.mean(values) < high <= max(values)
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow.low < narrow.high < high


def test_bootstrap_interval_of_equal_values_is_that_value():
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_sample_std_divides_by_one_less():
    assert sample_std([1.0, 3.0]) == pytest.approx(2**0.5)
    assert np.isnan(sample_std([1.0]))


@pytest.mark.parametrize("length", [0, 1, 5, 100, 101, 12345])
def test_thin_keeps_both_ends_and_at_most_what_is_asked(length):
    chosen = thin(length, 100)
    assert len(chosen) == min(length, 100)
    assert length == 0 or (chosen[0], chosen[-1]) == (0, length - 1)


def test_band_interpolates_where_all_curves_have_values():
    rising = np.array([0.0, 10.0]), np.array([0.0, 10.0])
    level = np.array([2.0, 8.0]), np.array([1.0, 1.0])
    shown = band([rising, level], points=4)
    np.testing.assert_allclose(shown.x, [2, 4, 6, 8])
    np.testing.assert_allclose(shown.mean, [1.5, 2.5, 3.5, 4.5])
    np.testing.assert_allclose(shown.low, [1, 1, 1, 1])
    np.testing.assert_allclose(shown.high, [2, 4, 6, 8])


def test_ratios_are_taken_within_a_round_and_held_to_their_bar():
    plan = Plan()
    plan.add(lambda turn, effort: None, Row("fast", "fast", "steps/s"))
    plan.add(lambda turn, effort: None, Row("slow", "slow", "steps/s"))
    plan.compare("fast / slow", "fast", "slow", Bar(5, at_least=True))
    plan.compare("not measured", "fast", "absent", Bar(5, at_least=True))
    samples = {"fast": [10.0, 100.0, 12.0], "slow": [2.0, 50.0, 2.0]}
    report = throughput.make_report({"date": "today"}, plan, samples)
    assert [row["label"] for row in report["rows"]] == ["fast", "slow", "fast / slow"]
    ratio = report["rows"][-1]
    assert ratio["values"] == [5.0, 2.0, 6.0]
    assert (ratio["median"], ratio["min"], ratio["max"], ratio["met"]) == (5.0, 2.0, 6.0, True)
    assert "| fast / slow | ratio | 5 | 2 - 6 | >= 5 | yes |" in throughput.to_markdown(report)


def test_a_bar_is_met_on_its_own_side():
    assert Bar(0.35, at_least=False).met(0.3)
    assert not Bar(0.35, at_least=False).met(0.4)
    assert not Bar(5, at_least=True).met(4)


def test_the_whole_plan_holds_every_bar():
    plan = make_plan(GROUPS, peers=True, peer_threads=1)
    rows = [row for item in plan.items for row in item.rows] + list(plan.ratios)
    assert len({row.key for row in rows}) == len(rows)
    peers = len(FASTER_THAN_PEERS) + 2 * len(FASTER_ON_ATARI)
    assert len([row for row in rows if row.bar]) == 3 + len(ENVS) + peers


def test_a_worker_measures_whenever_it_is_asked():
    worker = Worker("plain update", partial(updates.plain, effort=TINY))
    try:
        assert all(value > 0 for _ in range(2) for value in worker.measure())
    finally:
        worker.close()


def test_a_worker_that_cannot_measure_says_why():
    item = partial(environments.ours, env="HalfCheeta-v4", num_envs=1, threads=1, groups=1, effort=TINY)
    with pytest.raises(MeasurementError, match=r"^cheetah: unknown environment .*HalfCheetah-v4"):
        Worker("cheetah", item)


@pytest.mark.slow
def test_throughput_of_the_update(tmp_path):
    output = tmp_path / "table"
    assert throughput.main(["--quick", "--only", "update", "--output", str(output)]) == 0
    report = json.loads(output.with_suffix(".json").read_text())
    assert [len(row["values"]) for row in report["rows"]] == [2, 2, 2, 2]
    assert "ours compiled" in output.with_suffix(".md").read_text()


def test_missing_peers_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert throughput.main(["--peers"]) == 2
    assert capsys.readouterr().err == (
        "error: stable_baselines3 and sb3_contrib missing: pip install 'rlkit_es[peers]'\n"
    )


def test_a_mistake_on_the_command_line_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        throughput.main(["--rounds", "0"])
    assert capsys.readouterr().err.count("\n") == 1


def test_cpu_model_is_read_from_linux(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A Processor\n")
    assert cpu_model(cpuinfo) == "A Processor"
    assert cpu_model(tmp_path / "absent")


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
    cells = json.loads((results / "cells.json").read_text())
    assert [(cell["env"], cell["algo"], cell["seed"]) for cell in cells] == [
        ("CartPole-v1", "espo", 0),
        ("CartPole-v1", "ppo", 0),
    ]
    assert cells[0]["config"]["total_steps"] == 512
    assert len(cells[0]["evaluation"]["returns"]) == 10
    with (results / "curves.csv").open(newline="") as stream:
        assert {row["algo"] for row in csv.DictReader(stream)} == {"ppo", "espo"}
    summary = (results / "summary.md").read_text()
    assert "| CartPole-v1 | ppo | 1 |" in summary
    assert (results / "CartPole-v1.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("python -m rlkit_es.run --algo") == 2

    assert learn("--total-steps", "512") == 0
    assert "2 of them finished before" in capsys.readouterr().out

    assert learn("--total-steps", "513") == 2
    assert "another total_steps" in capsys.readouterr().err

    (results / "summary.md").unlink()
    assert learn("--report-only") == 0
    assert (results / "summary.md").read_text() == summary


def test_learning_goes_on_with_a_run_that_was_interrupted(learn, tmp_path, capsys):
    further = ("--compile", "off", "--num-envs", "8", "--checkpoint-every", "256")
    assert learn("--algos", "ppo", "--total-steps", "768", further=further) == 0
    cells = (tmp_path / "results" / "smoke" / "cells.json").read_text()
    (directory,) = (tmp_path / "runs").rglob("seed0")
    (directory / "evaluation.json").unlink()
    _, last = sorted(directory.glob("checkpoints/step-*"))
    last.unlink()
    capsys.readouterr()
    assert learn("--algos", "ppo", "--total-steps", "768", further=further) == 0
    said = capsys.readouterr().out
    assert "python -m rlkit_es.run --resume" in said
    assert "python -m rlkit_es.run --algo" not in said
    again = json.loads((tmp_path / "results" / "smoke" / "cells.json").read_text())
    assert again[0]["evaluation"] == json.loads(cells)[0]["evaluation"]
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
    ],
)
def test_learning_refuses_before_anything_runs(learn, capsys, tmp_path, arguments, further, message):
    assert learn(*arguments, further=further) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_an_environment_that_raises_dies_or_hangs_is_a_row_like_another(monkeypatch):
    tester = environment_table.Tester(by_name)
    try:
        assert tester.test("good") == {"backend": "good", "error": None}
        assert tester.test("raises") == {"error": "ValueError: in two"}
        assert tester.test("dies") == {"error": "the process died with exit code 7"}
        monkeypatch.setattr(environment_table, "SECONDS", 1)
        assert tester.test("hangs") == {"error": "not done after 1 s"}
        monkeypatch.undo()
        assert tester.test("good again") == {"backend": "good again", "error": None}
    finally:
        tester.stop()


def test_the_table_of_environments_is_completed_where_it_was_left(monkeypatch, tmp_path, capsys):
    suites = {"some": lambda: ["good", "raises"], "more": lambda: ["better"]}
    monkeypatch.setattr(environment_table, "SUITES", suites)
    monkeypatch.setattr(environment_table, "_train", by_name)
    table = ["--output", str(tmp_path)]
    assert environment_table.main([*table, "--only", "some"]) == 1
    monkeypatch.setitem(suites, "some", lambda: ["good", "raises no more"])
    assert environment_table.main([*table, "--missing"]) == 1
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [
        *("`good`", "`raises`"),
        *("`raises", "`better`"),
    ]
    rows = json.loads((tmp_path / "environments.json").read_text())["rows"]
    assert {row["env"]: row["error"] is None for row in rows} == {
        "good": True,
        "raises": False,
        "raises no more": True,
        "better": True,
    }
    assert "3 of 4 ids ran" in (tmp_path / "environments.md").read_text()
