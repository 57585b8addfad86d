"""The benchmarks of speed and of environments: their rules, and a small run of each."""

import importlib.util
import json
from functools import partial

import environments as environment_table
import pytest
import throughput
from machine import cpu_model
from measured import Effort, environments, updates
from throughput_plan import ENVS, FASTER_ON_ATARI, FASTER_THAN_PEERS, GROUPS, Bar, Plan, Row, make_plan
from work_examples import by_name
from workers import MeasurementError, Worker

TINY = Effort(window_seconds=0.01, training_seconds=0.01, warmup_iterations=1, startup_steps=2048)


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
