"""``--num-seeds``: each seed of a process leaves what its own run would leave."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from run_results import rows
from torch import Tensor

import rlkit_es
from rlkit_es import run
from rlkit_es.commands import seeds_together
from rlkit_es.errors import UserError
from rlkit_es.models.networks import MLP, NETWORKS
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.runs import experiment, seed_runs
from rlkit_es.runs.checkpoint_file import read_checkpoint
from rlkit_es.runs.checkpoint_store import CheckpointStore, find_checkpoint
from rlkit_es.runs.run_directory import claimed
from rlkit_es.runs.run_records import find_runs, group_seeds
from rlkit_es.training import memory
from rlkit_es.training.trainer import Trainer

WALK = "toy_envs:ToyWalk-v0"
# Episodes of Walk end when they will, so seeds come to checkpoints and to the end in iterations of their own.
SMALL = [
    *("--env", WALK, "--backend", "gymnasium", "--num-envs", "4", "--rollout-steps", "16"),
    *("--minibatch-size", "16", "--hidden-sizes", "8", "--critic-epochs", "2", "--learning-rate", "3e-3"),
    *("--compile", "off", "--eval-episodes", "2", "--total-steps", "400", "--checkpoint-every", "140"),
]
SEEDS = (3, 4, 5)
ALGOS: Mapping[str, list[str]] = {
    "ppo": ["--epochs", "2", "--recompute-advantages"],
    "espo": ["--epochs", "3", "--deviation-threshold", "0.1"],
    "sd_espo": ["--epochs", "2", "--deviation-threshold", "0.05", "--deviation-threshold-schedule", "linear"],
    "trpo": [],
}


class StoppedError(Exception):
    pass


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "plot_learning_curve", lambda metrics, evaluation, path: None)


def words_of(algo: str, *more: str) -> list[str]:
    return ["--algo", algo, *SMALL, *ALGOS[algo], *more]


def train(algo: str, directory: Path, *more: str) -> Path:
    assert (
        run.main(words_of(algo, "--num-seeds", "3", "--seed", "3", "--run-dir", str(directory), *more)) == 0
    )
    return directory


def rows_of(directory: Path) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items()} for row in rows(directory)]


def tensors_of(directory: Path) -> dict[str, Tensor]:
    paths = sorted((directory / "checkpoints").iterdir())
    return {
        f"{path.name} {name}": value
        for path in paths
        for name, value in read_checkpoint(path).tensors.items()
    }


def stop_at(monkeypatch: pytest.MonkeyPatch, seed: int, iteration: int) -> None:
    """End the process's training, in no order, where that seed would begin that iteration."""
    iterate = Trainer._iterate

    def stopping(self: Trainer, collector: Any) -> Any:
        if (self.config.seed, self.progress.iteration + 1) == (seed, iteration):
            raise StoppedError
        return iterate(self, collector)

    monkeypatch.setattr(Trainer, "_iterate", stopping)


@pytest.mark.parametrize("algo", ALGOS)
def test_the_first_updates_of_each_seed_are_those_of_its_own_run(algo: str, tmp_path: Path) -> None:
    short = ("--total-steps", "150", "--checkpoint-every", "100")
    near = 1e-4 if algo == "trpo" else 1e-5  # conjugate gradients magnify the rounding of 60 samples
    together = train(algo, tmp_path / "together", *short)
    for seed in SEEDS:
        one, alone = together / f"seed{seed}", tmp_path / f"alone{seed}"
        assert run.main(words_of(algo, "--seed", str(seed), "--run-dir", str(alone), *short)) == 0
        rows, rows_alone = rows_of(one), rows_of(alone)
        assert len(rows) == len(rows_alone) == 3
        for row, row_alone in zip(rows, rows_alone, strict=True):
            assert row == pytest.approx(row_alone, rel=10 * near, abs=1e-5, nan_ok=True)
        tensors, tensors_alone = tensors_of(one), tensors_of(alone)
        assert tensors.keys() == tensors_alone.keys()
        for name, value in tensors.items():
            torch.testing.assert_close(value, tensors_alone[name], rtol=near, atol=near, msg=name)
        config, config_alone = (json.loads((place / "config.json").read_text()) for place in (one, alone))
        for recorded in (config, config_alone):
            del recorded["config"]["run_dir"], recorded["git_revision"]
        assert config == config_alone
        files, files_alone = ({path.name for path in place.iterdir()} for place in (one, alone))
        assert files == files_alone
    (group,) = group_seeds(find_runs([together])).values()
    assert len(group) == 3


@pytest.mark.parametrize(("algo", "seed", "iteration"), [("sd_espo", 4, 6), ("trpo", 3, 4), ("espo", 5, 8)])
def test_seeds_that_were_stopped_end_to_the_bit_as_those_that_were_not(
    algo: str, seed: int, iteration: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, directory = train(algo, tmp_path / "whole"), tmp_path / "stopped"
    with monkeypatch.context() as patched:
        stop_at(patched, seed, iteration)
        with pytest.raises(StoppedError):
            train(algo, directory)
    steps = {CheckpointStore(directory / f"seed{seed}" / "checkpoints", 1).steps()[-1] for seed in SEEDS}
    assert run.main(["--resume", str(directory)]) == 0
    for number in SEEDS:
        mine, theirs = directory / f"seed{number}", whole / f"seed{number}"
        assert json.dumps(rows_of(mine)) == json.dumps(rows_of(theirs))
        tensors, expected = tensors_of(mine), tensors_of(theirs)
        assert tensors.keys() == expected.keys()
        assert [name for name, value in tensors.items() if not torch.equal(value, expected[name])] == []
        for name in ("evaluation.json", "seeds.json"):
            pair = [place / name for place in (mine, theirs)]
            assert not pair[0].exists() or pair[0].read_text() == pair[1].read_text()
    assert len(steps) > 1 or algo != "sd_espo"  # one of them had to wait for another


def test_one_line_of_progress_and_an_evaluation_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("ppo", tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert "3 seeds, 3 to 5, update together" in lines
    progress = [line for line in lines if line.startswith(f"ppo {WALK} x 3")]
    assert 5 <= len(progress) <= len(rows_of(tmp_path / "run" / "seed3")) + 2
    assert sum(line.startswith("seed ") and "evaluation over 2 episodes" in line for line in lines) == 3
    assert lines[-1] == f"run directories: {tmp_path / 'run'}/seed*"


@pytest.mark.parametrize("ahead", [SEEDS[:1], SEEDS[1:2], SEEDS[1:]])
def test_a_run_of_one_seed_goes_on_by_itself_and_all_to_what_is_then_asked_for(
    ahead: tuple[int, ...], tmp_path: Path
) -> None:
    directory = train("ppo", tmp_path / "run")
    more = ["--total-steps", "500", "--import", "toy_envs"]
    for seed in ahead:
        assert run.main(["--resume", str(directory / f"seed{seed}"), *more]) == 0
        assert rows_of(directory / f"seed{seed}")[-1]["env_steps"] >= 500
    assert run.main(["--resume", str(directory), *more]) == 0
    assert all(rows_of(directory / f"seed{seed}")[-1]["env_steps"] >= 500 for seed in SEEDS)


def test_a_directory_in_use_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = train("ppo", tmp_path / "run", "--total-steps", "60")
    capsys.readouterr()
    with claimed(directory / "seed4"):
        assert run.main(["--resume", str(directory), "--total-steps", "120"]) == 2
    said = capsys.readouterr()
    assert said.err == f"error: run directory {directory / 'seed4'} is in use by another process\n"
    assert "to go on" not in said.out


def test_without_a_directory_they_go_to_one_that_names_the_seeds() -> None:
    assert run.main(words_of("ppo", "--num-seeds", "2", "--seed", "7", "--total-steps", "60")) == 0
    (directory,) = Path("runs").glob("*/ppo/seeds7-8-*")
    assert sorted(path.name for path in directory.iterdir()) == ["seed7", "seed8", "seeds.json"]
    assert find_checkpoint(directory / "seed8").state["config"]["seed"] == 8


# What a user can do wrong: one line, exit code 2.


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run.main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]


class Buffered(MLP):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("scale", torch.ones(()))


@pytest.fixture
def _buffered() -> Iterator[None]:
    NETWORKS["buffered"] = Buffered
    yield
    del NETWORKS["buffered"]


@pytest.mark.usefixtures("_buffered")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--num-seeds", "0"), "--num-seeds must be a whole number of at least 1, got '0'"),
        (("--num-seeds", "four"), "--num-seeds must be a whole number of at least 1, got 'four'"),
        (
            ("--num-seeds", "2", "--wandb", "mine"),
            "--wandb takes one run of a process; start them one by one",
        ),
        (("--num-seeds", "2", "--network", "buffered"), "has buffers, which cannot be stacked"),
        (("--num-seeds", "2", "--seed", str(2**63 - 1)), "seed must be a number at most"),
    ],
)
def test_what_cannot_be_done_together_is_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, *words_of("ppo", *words))
    assert not Path("runs").exists()


def test_pictures_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ale_py")
    words = ("--algo", "ppo", "--env", "ALE/Pong-v5", "--num-envs", "2", "--num-seeds", "2")
    assert "an update on pictures fills the machine by itself" in refusal(capsys, *words)


def test_more_seeds_than_memory_holds_are_refused_before_they_are_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal(capsys, *words_of("ppo", "--num-seeds", "100000000"))
    assert said.startswith("error: 99,999,998 more seeds take some ")
    assert said.endswith("ask for fewer with --num-seeds")
    monkeypatch.setattr(memory, "free_bytes", lambda: None)

    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes")

    monkeypatch.setattr(seed_runs.Lockstep, "run", full)
    said = refusal(capsys, *words_of("ppo", "--num-seeds", "2"))
    assert said == "error: 2 seeds do not fit into memory: ask for fewer with --num-seeds"


def test_a_directory_that_holds_a_run_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of("ppo", "--run-dir", str(tmp_path / "run"), "--total-steps", "60")
    assert run.main([*words, "--num-seeds", "2"]) == 0
    assert "already holds" in refusal(capsys, *words, "--num-seeds", "2")
    alone = [word.replace(str(tmp_path / "run"), str(tmp_path / "alone")) for word in words]
    assert run.main(alone) == 0
    assert "already holds" in refusal(capsys, *alone, "--num-seeds", "2")


def test_a_directory_of_seeds_is_not_that_of_one_run_nor_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of("ppo", "--run-dir", str(tmp_path / "run"), "--total-steps", "60")
    assert run.main([*words, "--num-seeds", "2"]) == 0
    before = sorted(tmp_path.rglob("*"))
    listed = (tmp_path / "run" / "seeds.json").read_text()
    assert "already holds several seeds" in refusal(capsys, *words)
    assert "already holds several seeds" in refusal(capsys, *words, "--num-seeds", "2", "--seed", "5")
    assert (sorted(tmp_path.rglob("*")), (tmp_path / "run" / "seeds.json").read_text()) == (before, listed)
    with pytest.raises(UserError, match=r"is not one run: choose .*seed0 or .*seed1$"):
        rlkit_es.resume(tmp_path / "run")


@pytest.mark.parametrize("more", [["--num-seeds", "2"], ["--num_seeds=2"], ["--preset", "reference-espo"]])
def test_what_is_for_a_new_run_is_refused_where_one_goes_on(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "--resume", str(tmp_path), *more)
    assert said.startswith(f"error: {more[0].split('=')[0].replace('_', '-')} is for a new run")


def test_ranks_and_seeds_exclude_each_other() -> None:
    class Two(Ranks):
        size = 2

    config = run.parse(words_of("ppo"))
    with pytest.raises(UserError, match=r"^--num-seeds trains seeds in one process, and torchrun"):
        seeds_together.train(config, "2", [], Two())
    with pytest.raises(UserError, match="num-seeds must be"):
        seeds_together.train(dataclasses.replace(config), "²", [], ALONE)


@pytest.mark.parametrize("text", ["", "[]", '{"seeds": 3}', '{"seeds": ["x"]}'])
def test_a_damaged_list_of_seeds(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "seeds.json").write_text(text)
    assert "cannot be read" in refusal(capsys, "--resume", str(tmp_path))


def test_a_seed_that_fails_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["toy_envs:ToyNaN-v0" if word == WALK else word for word in words_of("ppo", "--num-seeds", "2")]
    said = refusal(capsys, *words, "--run-dir", str(tmp_path / "run"))
    assert said.startswith("error: seed 0, iteration 1: environment 0 returned a non-finite observation")


def test_a_setting_that_makes_another_experiment_may_not_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("ppo", tmp_path / "run", "--total-steps", "60")
    for change in (("--seed", "1"), ("--gamma", "0.5")):
        said = refusal(capsys, "--resume", str(tmp_path / "run"), "--import", "toy_envs", *change)
        assert "would make it a different experiment" in said
