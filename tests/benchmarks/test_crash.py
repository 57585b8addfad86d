"""The benchmark that kills runs: its plan, what it compares, and a short run of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import crash
import pytest
import torch

from rlkit_es import run
from rlkit_es.runs.checkpoint_file import read_checkpoint, write_checkpoint
from rlkit_es.training.checkpoint import Checkpoint

ONE_RUN = 7  # the seed of a plan that kills one run twice


@pytest.mark.parametrize("kills", [1, 2, 7, 100])
def test_half_of_the_kills_are_meant_for_writes(kills: int) -> None:
    plan = crash.make_plan(kills, seed=0)
    planned = [kill for _, several in plan for kill in several]
    assert len(planned) == kills
    assert sum(kill.during == "a write" for kill in planned) == kills // 2
    assert [number for number, _ in plan] == list(range(1, len(plan) + 1))
    assert all(several for _, several in plan)


def test_the_plan_is_a_function_of_the_seed() -> None:
    plan = crash.make_plan(100, seed=0)
    assert plan == crash.make_plan(100, seed=0)
    assert plan != crash.make_plan(100, seed=1)
    counts = {len(several) for _, several in plan}
    assert {1, 2, 3} <= counts  # some runs are killed again and again


@pytest.fixture
def finished() -> Path:
    small = "--num-envs 4 --rollout-steps 16 --minibatch-size 32 --epochs 1 --critic-epochs 1 --compile off"
    arguments = f"--algo ppo --env CartPole-v1 --total-steps 150 --run-dir run --eval-episodes 1 {small}"
    assert run.main(arguments.split()) == 0
    return Path("run")


def change_a_row(directory: Path) -> None:
    path = directory / "metrics.csv"
    head, row, rest = path.read_text().split("\n", 2)
    path.write_text("\n".join([head, row.replace(",", "1,", 1), rest]))


def double_a_row(directory: Path) -> None:
    path = directory / "metrics.csv"
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[-1])


def lose_a_row(directory: Path) -> None:
    path = directory / "metrics.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def change_one_bit(directory: Path) -> None:
    path = max((directory / "checkpoints").glob("step-*"))
    held = read_checkpoint(path)
    moment = held.tensors["learner.exp_avg"].clone()
    moment.view(torch.int32)[3] ^= 1
    write_checkpoint(path, Checkpoint({**held.tensors, "learner.exp_avg": moment}, held.state))


def change_the_evaluation(directory: Path) -> None:
    (directory / "evaluation.json").write_text("{}")


def leave_a_file(directory: Path) -> None:
    (directory / "checkpoints" / ".best.safetensors.1.tmp").touch()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (change_a_row, ["metrics.csv, row 1"]),
        (double_a_row, ["metrics.csv, row 4"]),
        (lose_a_row, ["metrics.csv, row 3"]),
        (change_one_bit, ["step-000000000182.safetensors, learner.exp_avg"]),
        (change_the_evaluation, ["evaluation.json"]),
        (leave_a_file, ["files"]),
    ],
)
def test_each_difference_is_named(change: Callable[[Path], None], names: list[str], finished: Path) -> None:
    before = crash.fingerprint(finished)
    assert crash.differences(before, crash.fingerprint(finished)) == []
    change(finished)
    assert crash.differences(before, crash.fingerprint(finished)) == names


def test_the_time_it_took_is_no_difference(finished: Path) -> None:
    before = crash.fingerprint(finished)
    path = finished / "metrics.csv"
    head, *rows = path.read_text().splitlines(keepends=True)
    at = head.split(",").index("wall_seconds")
    slower = [",".join("99.5" if i == at else x for i, x in enumerate(row.split(","))) for row in rows]
    path.write_text("".join([head, *slower]))
    assert crash.fingerprint(finished) == before


def test_a_difference_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash.Bench, "measure", lambda self: 1.0)
    for names, code in ((["metrics.csv, row 1"], 1), ([], 0)):
        monkeypatch.setattr(crash.Bench, "carry_out", lambda self, run, names=names: names)
        assert crash.main(["--kills", "1", "--output", str(tmp_path / "crash.json")]) == code
        assert json.loads((tmp_path / "crash.json").read_text())["different"] == names


@pytest.mark.slow
def test_two_kills_leave_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--kills", "2", "--seed", str(ONE_RUN), "--total-steps", "2500"]
    assert len(crash.make_plan(2, ONE_RUN)) == 1
    assert crash.main([*options, "--output", str(tmp_path / "crash.json")]) == 0
    result = json.loads((tmp_path / "crash.json").read_text())
    assert (result["kills"], result["different"], result["damaged"]) == (2, [], 0)
    assert sum(result["hit"].values()) == 2
    assert {hit["during"] for hit in result["each"]} == {"anything", "a write"}
    said = capsys.readouterr().out
    assert "kill 1/2, run 1: " in said
    assert "2 kills of " in said
