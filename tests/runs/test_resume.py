from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_envs

import rlkit_es
from rlkit_es import run
from rlkit_es.errors import CheckpointError, UserError
from rlkit_es.learners.compilation import WORTH_COMPILING_STEPS, missing_compiler
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.models.encoders import ENCODERS
from rlkit_es.models.networks import NETWORKS
from rlkit_es.runs import checkpoint_store, experiment, resume
from rlkit_es.runs.checkpoint_file import read_checkpoint
from rlkit_es.runs.experiment import History
from rlkit_es.runs.run_directory import claimed
from rlkit_es.training.callbacks import Callback, Hooks
from rlkit_es.training.checkpoint import take_checkpoint
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation
from rlkit_es.training.progress import crosses
from rlkit_es.training.trainer import Trainer

ROOT = Path(run.__file__).parents[1]
TIMING = {"wall_seconds", "steps_per_second"}
SMALL: Mapping[str, Any] = {
    "num_envs": 4,
    "rollout_steps": 16,
    "minibatch_size": 32,
    "hidden_sizes": (8,),
    "seed": 3,
    "critic_epochs": 2,
    "learning_rate": 3e-3,
    "compile": "off",
    "eval_episodes": 2,
    # Iterations of some 53 steps: three a segment, the last segment shorter.
    "total_steps": 400,
    "checkpoint_every": 150,
}
WALK, PAYDAY = "toy_envs:ToyWalk-v0", "toy_envs:ToyPayday-v0"
STOPS = [("on_iteration", 2), ("on_checkpoint", 2), ("on_iteration", 4)]


def configure(algo: str = "sd_espo", env: str = WALK, backend: str = "gymnasium", **changes: Any) -> Config:
    settings: dict[str, Any] = {**SMALL, "env": env, "backend": backend}
    if RECIPES[algo].step == "adam":
        settings["epochs"] = 2
    if RECIPES[algo].stop == "ratio_deviation":
        settings |= {"deviation_threshold_schedule": "linear", "deviation_threshold": 0.05}
    return Config.for_algorithm(algo, **{**settings, **changes})


class StoppedError(Exception):
    pass


class StopAt(Callback):
    """Ends training, in no order, the ``count``-th time that ``moment`` comes."""

    def __init__(self, moment: str, count: int) -> None:
        self.left = count
        setattr(self, moment, self._come)

    def _come(self, *_: object) -> None:
        self.left -= 1
        if not self.left:
            raise StoppedError


def begin(config: Config, *stops: Callback) -> Path:
    """A run from its start to its end, or until it is stopped."""
    assert config.run_dir is not None
    trainer = Trainer(config)
    with until_it_ends(trainer, stops):
        experiment.run(trainer, config.total_steps, progress=False, callbacks=stops)
    return config.run_dir


def go_on(directory: Path, *stops: Callback, **changes: Any) -> list[str]:
    """`begin` for one that was stopped; returns what was said of changes, and warnings."""
    saved = resume.open_run(directory)
    trainer, said = resume.continued(saved, changes)
    with until_it_ends(trainer, stops):
        experiment.go_on(trainer, progress=False, callbacks=stops)
    return [*said, *saved.warnings]


@contextlib.contextmanager
def until_it_ends(trainer: Trainer, stops: Sequence[Callback]) -> Iterator[None]:
    with contextlib.closing(trainer), pytest.raises(StoppedError) if stops else contextlib.nullcontext():
        yield


def stopped(config: Config, moment: str = "on_iteration", count: int = 5) -> Path:
    return begin(config, StopAt(moment, count))


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    """The learning curve as the numbers that it shows: drawing takes as long as these runs."""

    def write(metrics: list[dict[str, float]], evaluation: Evaluation | None, path: Path) -> None:
        rows = [{name: float(value) for name, value in untimed(row).items()} for row in metrics]
        path.write_text(f"{rows}\n{evaluation}")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(experiment, "plot_learning_curve", write)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], Path]:
    """The run of a configuration that nobody stopped, in a directory of its own."""
    finished: dict[Config, Path] = {}

    def find(config: Config) -> Path:
        config = dataclasses.replace(config, run_dir=None)
        if config not in finished:
            directory = tmp_path_factory.mktemp("whole") / "run"
            finished[config] = begin(dataclasses.replace(config, run_dir=directory))
        return finished[config]

    return find


def read_rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def untimed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in TIMING}


def contents(directory: Path) -> dict[str, object]:
    """All that a run left, by name, but for the time it took."""
    rows, config = read_rows(directory), json.loads((directory / "config.json").read_text())
    del config["config"]["run_dir"], config["git_revision"]
    files = [path for path in directory.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    found: dict[str, object] = {
        "files": sorted(str(path.relative_to(directory)) for path in files),
        "columns": list(rows[0]),
        "config.json": config,
        "evaluation.json": (directory / "evaluation.json").read_text(),
        "learning_curve.png": (directory / "learning_curve.png").read_bytes(),
        **{f"row {i}": untimed(row) for i, row in enumerate(rows)},
    }
    for path in (directory / "checkpoints").iterdir():
        tensors, state = dataclasses.astuple(read_checkpoint(path))
        for name, tensor in tensors.items():
            found[f"{path.name}: {name}"] = tensor.dtype, tensor.shape, tensor.numpy().tobytes()
        for name, value in state.items():
            if name in ("progress", "metrics"):
                value = {key: float(number) for key, number in untimed(value).items()}
            found[f"{path.name}: {name}"] = json.dumps(value)  # as text, NaN equals itself
    return found


def differences(directory: Path, other: Path) -> list[str]:
    """Names of what two runs left that is not the same bit for bit."""
    mine, theirs = contents(directory), contents(other)
    return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))


def policy_of(directory: Path) -> dict[str, object]:
    found = contents(directory)
    return {name: value for name, value in found.items() if name.startswith("step-") and "policy." in name}


# Whatever is trained, wherever it was stopped.


@pytest.mark.parametrize(
    ("algo", "env", "backend"),
    [
        *((algo, "InvertedPendulum-v4", "envpool") for algo in RECIPES),
        *((algo, WALK, "gymnasium") for algo in ("ppo", "sd_trpo", "sd_espo", "r2vpo")),
        *((algo, "CartPole-v1", "envpool") for algo in ("sd_espo", "trpo")),
        *((algo, "CartPole-v1", "gymnasium") for algo in ("espo", "ppo_adaptive")),
    ],
)
def test_a_run_that_was_stopped_again_and_again_ends_as_one_that_was_not(
    algo: str, env: str, backend: str, tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    config = configure(algo, env, backend, run_dir=tmp_path / "run")
    begin(config, StopAt(*STOPS[0]))
    for moment, count in STOPS[1:]:
        go_on(tmp_path / "run", StopAt(moment, count))
        assert not (tmp_path / "run" / "evaluation.json").exists()
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", whole(config)) == []


@pytest.mark.slow
@pytest.mark.parametrize("algo", RECIPES)
@pytest.mark.parametrize(
    ("env", "backend"),
    [
        *((WALK, "gymnasium"), ("InvertedPendulum-v4", "gymnasium")),
        *(("CartPole-v1", "envpool"), ("CartPole-v1", "gymnasium")),
    ],
)
def test_every_recipe_does_with_every_kind_of_environment(
    algo: str, env: str, backend: str, tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    config = configure(algo, env, backend, run_dir=tmp_path / "run", eval_every=100)
    stopped(config)
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", whole(config)) == []


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["sd_espo", "trpo"])
def test_environments_in_processes_of_their_own_too(
    algo: str, tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    config = configure(algo, backend="gymnasium-async", run_dir=tmp_path / "run")
    stopped(config)
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", whole(config)) == []


@pytest.mark.skipif(missing_compiler() is not None, reason=f"nothing to compile with: {missing_compiler()}")
def test_a_compiled_update_too(tmp_path: Path, whole: Callable[[Config], Path]) -> None:
    config = configure("sd_ppo", compile="on", run_dir=tmp_path / "run")
    stopped(config)
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", whole(config)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"eval_every": 100},
        {"eval_episodes": 0},
        {"normalize_observations": False, "normalize_rewards": False},
        {"checkpoint_every": 1},
        {"checkpoint_every": 0},
        {"checkpoint_every": None},
        {"keep_checkpoints": 99},
        {"learning_rate_schedule": "constant"},
        {"horizon_growth": 3.0},
        {"env_groups": 1, "env": "InvertedPendulum-v4", "backend": "envpool"},
        {"critic_epochs": None},
        {"constraint": "kl"},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_whatever_the_settings(
    changes: dict[str, Any], tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    config = configure(**{"run_dir": tmp_path / "run", **changes})
    stopped(config)
    go_on(tmp_path / "run")
    if changes.get("eval_episodes", 1):
        assert differences(tmp_path / "run", whole(config)) == []
    else:
        assert not (tmp_path / "run" / "evaluation.json").exists()
        assert [untimed(r) for r in read_rows(tmp_path / "run")] == [
            untimed(r) for r in read_rows(whole(config))
        ]


MOMENTS = {
    "at the checkpoint of the start": ("on_checkpoint", 1),
    "in the first iteration": ("on_iteration", 1),
    "before the first checkpoint after the start": ("on_iteration", 3),
    "after that checkpoint": ("on_checkpoint", 2),
    "in the middle": ("on_iteration", 5),
    "in the last iteration": ("on_iteration", 8),
    "after the last checkpoint": ("on_checkpoint", 4),
    "after the final evaluation": ("on_evaluation", 1),
}


def test_the_moments_are_what_they_are_called(whole: Callable[[Config], Path]) -> None:
    rows = [int(row["env_steps"]) for row in read_rows(whole(configure()))]
    assert len(rows) == 8
    ends = [i for i, (a, b) in enumerate(itertools.pairwise([0, *rows]), 1) if crosses(a, b, 150)]
    assert ends == [3, 6]


@pytest.mark.parametrize("moment", MOMENTS)
def test_whenever_it_was_stopped(moment: str, tmp_path: Path, whole: Callable[[Config], Path]) -> None:
    config = configure(run_dir=tmp_path / "run")
    stopped(config, *MOMENTS[moment])
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", whole(config)) == []


@pytest.mark.parametrize("eval_every", [0, 100])
def test_whether_the_best_was_saved_and_the_last_was_not(
    eval_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[[Config], Path]
) -> None:
    config = configure(run_dir=tmp_path / "run", eval_every=eval_every)
    with monkeypatch.context() as patched:
        save, calls = checkpoint_store.CheckpointStore.save, itertools.count()

        def save_or_stop(self: Any, trainer: Trainer) -> Path:
            if next(calls) == 2:
                raise StoppedError
            return save(self, trainer)

        patched.setattr(checkpoint_store.CheckpointStore, "save", save_or_stop)
        begin(config, Callback())
    best = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.safetensors")
    assert (
        best.state["progress"]["env_steps"]
        > resume.open_run(tmp_path / "run").checkpoint.state["progress"]["env_steps"]
    )
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", whole(config)) == []


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, whole: Callable[[Config], Path]) -> None:
    config = configure(run_dir=tmp_path / "run")
    begin(config)
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    go_on(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before
    assert differences(tmp_path / "run", whole(config)) == []


def test_a_second_stage_of_training_goes_on_too(tmp_path: Path) -> None:
    for name, callbacks in (("whole", []), ("run", [StopAt("on_iteration", 5)])):
        config = configure(run_dir=tmp_path / name)
        trainer = Trainer(config)
        experiment.run(trainer, 300, progress=False)
        try:
            experiment.run(trainer, 500, progress=False, callbacks=callbacks)
        except StoppedError:
            assert callbacks
        trainer.close()
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", tmp_path / "whole") == []


def test_a_run_learns_the_same_with_and_without_a_directory(whole: Callable[[Config], Path]) -> None:
    config, history = configure(), History()
    trainer = Trainer(config)
    trainer.train(config.total_steps, Hooks([history]))
    trainer.close()
    kept = read_checkpoint(max((whole(config) / "checkpoints").glob("step-*")))
    mine = take_checkpoint(trainer).tensors
    assert mine.keys() == kept.tensors.keys()
    assert [name for name, x in mine.items() if not torch.equal(x, kept.tensors[name])] == []
    logged = [{name: str(value) for name, value in untimed(row).items()} for row in history.metrics]
    assert logged == [untimed(row) for row in read_rows(whole(config))]


def test_two_seeds_differ_so_the_comparison_sees_differences(whole: Callable[[Config], Path]) -> None:
    found = differences(whole(configure()), whole(configure(seed=4)))
    assert any("policy." in name for name in found)
    assert any("learner." in name for name in found)
    assert any(name.startswith("row ") for name in found)
    assert "evaluation.json" in found


# What metrics.csv holds beyond the checkpoint.


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + "999,5",
        lambda text: text + text.splitlines(keepends=True)[-1][:-9],
        lambda text: text[:-7],
        lambda text: text[:-1],
        lambda text: text + "\0" * 100,
        lambda text: text + text.splitlines(keepends=True)[-1].replace(",", "1,", 1) * 3,
    ],
    ids=["half a line", "most of a line", "cut", "no newline", "zeros", "further rows"],
)
def test_rows_beyond_the_checkpoint_are_logged_again(
    spoil: Callable[[str], str], tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    config = configure(run_dir=tmp_path / "run")
    stopped(config, "on_iteration", 6)
    path = tmp_path / "run" / "metrics.csv"
    path.write_bytes(spoil(path.read_bytes().decode()).encode())
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", whole(config)) == []


def test_rows_that_were_lost_stay_lost_and_training_goes_on(
    tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    config = configure(run_dir=tmp_path / "run")
    stopped(config, "on_iteration", 6)
    (tmp_path / "run" / "metrics.csv").unlink()
    go_on(tmp_path / "run")
    rows = [untimed(row) for row in read_rows(whole(config))]
    assert [untimed(row) for row in read_rows(tmp_path / "run")] == rows[3:]
    assert policy_of(tmp_path / "run") == policy_of(whole(config))


@pytest.mark.parametrize(
    "content",
    [
        "env_steps,iteration\nmany,1\n",
        "env_steps,iteration\n1,many\n",
        "env_steps,a\n1,2,3\n",
        "env_steps,a\n4\n",
    ],
)
def test_metrics_that_cannot_be_read_are_named(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(configure(run_dir=tmp_path / "run"))
    (tmp_path / "run" / "metrics.csv").write_text(content)
    assert run.main(["--resume", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: run/metrics.csv cannot be read")


# Checkpoints that are damaged.


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_after_a_damaged_checkpoint_it_goes_on_from_the_one_before(
    damage: Callable[[Path], None], tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    config = configure(run_dir=tmp_path / "run")
    stopped(config, "on_iteration", 7)
    before, last = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    damage(last)
    (warning,) = go_on(tmp_path / "run", StopAt("on_iteration", 1))
    assert str(last) in warning
    assert warning.endswith("; going on from the one before it")
    assert "\n" not in warning
    assert resume.open_run(tmp_path / "run").checkpoint.state == read_checkpoint(before).state
    assert go_on(tmp_path / "run") == []
    assert differences(tmp_path / "run", whole(config)) == []


def test_the_command_line_warns_of_a_damaged_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: Callable[[Config], Path]
) -> None:
    config = configure(run_dir=tmp_path / "run")
    stopped(config, "on_iteration", 7)
    flip(max((tmp_path / "run" / "checkpoints").glob("step-*")))
    assert run.main(["--resume", "run", "--import", "toy_envs"]) == 0
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("warning: checkpoint run/checkpoints/step-")
    assert "is damaged" in line
    assert said.out.startswith("going on with run from ")
    assert differences(tmp_path / "run", whole(config)) == []


def test_damaged_checkpoints_alone_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped(configure(run_dir=tmp_path / "run"), "on_iteration", 7)
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        flip(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        resume.open_run(tmp_path / "run")
    assert run.main(["--resume", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: checkpoint run/checkpoints/step-")


def test_unfinished_files_of_a_killed_process_are_removed(
    tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    config = configure(run_dir=tmp_path / "run")
    stopped(config)
    for name in (".step-000000000999.safetensors.123.tmp", ".best.safetensors.123.tmp"):
        (tmp_path / "run" / "checkpoints" / name).write_bytes(b"half a check")
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", whole(config)) == []


# What may change, and what may not.


class FakeWandb(types.ModuleType):
    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, Any]] = []
        self.rows: list[dict[str, float]] = []

    def init(self, **options: Any) -> FakeWandb:
        self.begun.append(options)
        return self

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append(metrics)

    def finish(self, **_: Any) -> None:
        pass


CHANGED = {
    "total_steps": 600,
    "device": "cpu",
    "torch_threads": 2,
    "env_threads": 1,
    "env_groups": 1,
    "compile": "auto",
    "eval_episodes": 3,
    "eval_every": 100,
    "keep_checkpoints": 7,
    "wandb": "project",
}
UP_TO_ROUNDING = {"device", "torch_threads", "env_groups", "compile"}


@pytest.fixture
def one_thread_again() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def test_all_that_may_change_is_tried() -> None:
    assert CHANGED.keys() == resume.MAY_CHANGE


@pytest.mark.usefixtures("one_thread_again")
@pytest.mark.parametrize("name", CHANGED)
def test_it_may_change(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[[Config], Path]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    config = configure(run_dir=tmp_path / "run", env="InvertedPendulum-v4", backend="envpool")
    assert getattr(config, name) != CHANGED[name]
    stopped(config)
    said = go_on(tmp_path / "run", **{name: CHANGED[name]})
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert settings[name] == CHANGED[name]
    rounding = f"with another {name}, results agree up to rounding only"
    assert (rounding in said) == (name in UP_TO_ROUNDING)
    if name not in {"total_steps", "torch_threads", "env_groups"}:
        assert policy_of(tmp_path / "run").items() >= policy_of(whole(config)).items()
    for row, row_before in zip(read_rows(tmp_path / "run")[:3], read_rows(whole(config))[:3], strict=True):
        assert untimed(row).items() >= untimed(row_before).items()


def test_evaluations_that_begin_later_are_columns_that_were_empty_before(tmp_path: Path) -> None:
    stopped(configure(run_dir=tmp_path / "run"), "on_iteration", 6)
    go_on(tmp_path / "run", eval_every=100)
    column = [float(row["evaluation_return_mean"]) for row in read_rows(tmp_path / "run")]
    assert all(value != value for value in column[:3])
    assert sum(value == value for value in column) >= 2
    # And the other way round.
    stopped(configure(run_dir=tmp_path / "other", eval_every=100), "on_iteration", 6)
    go_on(tmp_path / "other", eval_every=0)
    column = [float(row["evaluation_return_mean"]) for row in read_rows(tmp_path / "other")]
    assert any(value == value for value in column[:3])
    assert all(value != value for value in column[3:])


def test_wandb_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    stopped(configure(run_dir=tmp_path / "run", wandb="project"))
    go_on(tmp_path / "run")
    assert [options["resume"] for options in fake.begun] == ["allow", "allow"]
    assert fake.begun[0]["id"] == fake.begun[1]["id"]
    steps = [metrics["env_steps"] for metrics in fake.rows]
    assert sorted(set(steps)) == [int(row["env_steps"]) for row in read_rows(tmp_path / "run")]


def another(name: str) -> tuple[str, Any]:
    """An algorithm, and another value that ``name`` could have with it."""
    numbers = [True, False, 1e-3, 0.5, 16, 99, (9,)]
    places = [Path("elsewhere"), "CartPole-v1", "auto", "mine", "relu", "float32"]
    slots = [
        "clip",
        "ratio_below",
        "mean_kl",
        "kl",
        "trial",
        "before",
        "median",
        "constant",
        "linear",
        "batch",
    ]
    for algo in ("sd_espo", "sd_trpo", "r2vpo"):
        config = configure(algo, run_dir=Path("run"))
        for value in (*numbers, *places, *slots, *RECIPES, {"lengths": [4]}):
            if value != getattr(config, name):
                with contextlib.suppress(UserError, TypeError):
                    dataclasses.replace(config, **{name: value})
                    return algo, value
    raise AssertionError(f"no other value of {name} was found")


OF_ATARI = ("sign_rewards", "sticky_actions")
FIXED = [
    field.name for field in dataclasses.fields(Config) if field.name not in {*resume.MAY_CHANGE, *OF_ATARI}
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], resume.SavedRun]:
    """What is there to go on from, of each algorithm."""

    @functools.cache
    def find(algo: str) -> resume.SavedRun:
        directory = tmp_path_factory.mktemp("saved") / "run"
        stopped(configure(algo, run_dir=directory), "on_iteration", 1)
        return resume.open_run(directory)

    return find


@pytest.mark.parametrize("name", FIXED)
def test_nothing_else_may_change(
    name: str, monkeypatch: pytest.MonkeyPatch, saved: Callable[[str], resume.SavedRun]
) -> None:
    monkeypatch.setitem(NETWORKS, "mine", NETWORKS["mlp"])
    monkeypatch.setitem(ENCODERS, "mine", ENCODERS["nature_cnn"])
    algo, value = another(name)
    there = saved(algo)
    with pytest.raises(UserError, match=f"^{name} is .* in this run, and going on with") as refused:
        resume.continued(there, {name: value})
    assert "\n" not in str(refused.value)


def test_nothing_of_atari_may_change(tmp_path: Path) -> None:
    settings = {"normalize_rewards": False, "run_dir": tmp_path / "run", "backend": "auto"}
    stopped(configure("sd_ppo", "ALE/Pong-v5", **settings), "on_iteration", 1)
    there = resume.open_run(tmp_path / "run")
    for name, value in zip(OF_ATARI, (False, 0.25), strict=True):
        with pytest.raises(UserError, match=f"^{name} is .* in this run, and going on with"):
            resume.continued(there, {name: value})


AT_ODDS_WITH_THE_REST = [("algo", algo) for algo in RECIPES if algo != "ppo"] + [
    ("env", "ALE/Pong-v5"),
    ("num_envs", 1),
    ("gamma", np.ones(2)),
]


@pytest.mark.parametrize(("name", "value"), AT_ODDS_WITH_THE_REST, ids=str)
def test_what_would_not_go_with_the_other_settings_is_refused_by_its_own_name(
    name: str, value: Any, tmp_path: Path
) -> None:
    config = configure("ppo", run_dir=tmp_path / "run", log_std_learning_rate=1e-3, rollout_steps=8)
    stopped(config, "on_iteration", 1)
    with pytest.raises(UserError, match=f"^{name} is .* in this run, .*: start a new run, or leave it out$"):
        rlkit_es.resume(tmp_path / "run", **{name: value})


@pytest.mark.parametrize(
    "option",
    [
        *("--gamma 0.5", "--hidden-sizes 9", "--seed 9", "--run-dir elsewhere", "--algo trpo"),
        '--env-kwargs {"lengths":[4]}',
    ],
)
def test_the_command_line_refuses_another_experiment(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(configure(run_dir=tmp_path / "run"), "on_iteration", 1)
    before = sorted(tmp_path.rglob("*"))
    assert run.main(["--resume", "run", *option.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {option.split()[0].removeprefix('--').replace('-', '_')} is ")
    assert "would make it a different experiment: start a new run, or leave it out" in line
    assert sorted(tmp_path.rglob("*")) == before


# Another end.


@pytest.mark.parametrize("algo", ["sd_espo", "ppo_adaptive", "trpo"])
def test_a_longer_run_is_the_run_that_was_meant_to_be_that_long(
    algo: str, tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    constant: dict[str, Any] = {"horizon_growth": 1.0}
    if algo != "ppo_adaptive":
        constant["learning_rate_schedule"] = "constant"
    limit = {"sd_espo": "deviation_threshold", "trpo": "max_kl"}.get(algo)
    if limit is not None:
        constant[f"{limit}_schedule"] = "constant"
    config = configure(algo, run_dir=tmp_path / "run", total_steps=2 * 150, **constant)
    begin(config)
    said = go_on(tmp_path / "run", total_steps=400)
    assert said == ["ends after 400 steps instead of 300"]
    found = differences(tmp_path / "run", whole(dataclasses.replace(config, total_steps=400)))
    # The best one may be of the time before.
    assert [name for name in found if not name.startswith("best.safetensors: config")] in (
        [],
        ["best.safetensors: progress"],
    )


def test_a_longer_run_with_a_growing_horizon_says_that_it_differs(tmp_path: Path) -> None:
    constant = {"learning_rate_schedule": "constant", "horizon_growth": 3.0}
    begin(configure("ppo", run_dir=tmp_path / "run", **constant))
    _, differs = go_on(tmp_path / "run", total_steps=600)
    assert "linear schedules now end there" in differs


def test_a_longer_run_with_a_linear_schedule_says_that_it_differs(tmp_path: Path) -> None:
    begin(configure("ppo", run_dir=tmp_path / "run"))
    _, differs = go_on(tmp_path / "run", total_steps=600)
    assert "linear schedules now end there" in differs
    rates = [float(row["learning_rate"]) for row in read_rows(tmp_path / "run")]
    steps = [int(row["env_steps"]) for row in read_rows(tmp_path / "run")]
    begun = [0, *steps]
    assert rates[-1] == pytest.approx(3e-3 * (1 - begun[len(rates) - 1] / 600))
    assert steps[-1] >= 600


@pytest.mark.parametrize("total_steps", [1, 150, 419])
def test_an_end_before_the_checkpoint_is_refused(
    total_steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(configure(run_dir=tmp_path / "run"))
    assert run.main(["--resume", "run", "--total-steps", str(total_steps)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: total_steps {total_steps} would end before the checkpoint at ")


@pytest.mark.skipif(missing_compiler() is not None, reason="nothing is ever compiled")
def test_a_length_from_which_on_the_update_is_compiled_is_said_to_round_differently(tmp_path: Path) -> None:
    stopped(configure(run_dir=tmp_path / "run", compile="auto"), "on_iteration", 1)
    saved = resume.open_run(tmp_path / "run")
    _, said = resume.continued(saved, {"total_steps": WORTH_COMPILING_STEPS})
    assert any("results agree up to rounding only" in line for line in said)


def test_a_shorter_run_that_is_not_over_ends_earlier(tmp_path: Path) -> None:
    stopped(configure(run_dir=tmp_path / "run"), "on_iteration", 6)
    go_on(tmp_path / "run", total_steps=250)
    assert 250 <= int(read_rows(tmp_path / "run")[-1]["env_steps"]) < 314
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["env_steps"] < 314


# What cannot be gone on with.


def one_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run.main(arguments) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert said.out == ""
    return line


def test_there_must_be_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run to go on with in nowhere" in one_error(capsys, "--resume", "nowhere")
    Path("file").write_text("no directory")
    assert "no run to go on with in file" in one_error(capsys, "--resume", "file")
    assert "--resume needs a value" in one_error(capsys, "--resume")
    Path("run/checkpoints").mkdir(parents=True)
    assert "no checkpoint last in run/checkpoints: there is none at all" in one_error(
        capsys, "--resume", "run"
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "file", "run"]


def test_a_run_that_had_no_checkpoint_yet_can_be_begun_again(
    tmp_path: Path, whole: Callable[[Config], Path]
) -> None:
    config = configure(run_dir=tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    begin(config)
    assert differences(tmp_path / "run", whole(config)) == []


def test_the_module_of_an_environment_is_not_imported_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(configure(run_dir=tmp_path / "run"), "on_iteration", 1)
    with monkeypatch.context() as patched:
        patched.delitem(sys.modules, "toy_envs")
        line = one_error(capsys, "--resume", "run")
        assert "give --import toy_envs on the command line" in line
        assert "toy_envs" not in sys.modules
    assert run.main(["--resume", "run", "--import", "toy_envs"]) == 0


def test_a_run_that_is_refused_says_nothing_of_steps_to_be_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(run_dir=Path("run"))
    stopped(config)
    assert run.main(as_options(config)) == 2
    said = capsys.readouterr()
    assert "already holds a run" in said.err
    assert "done again" not in said.out


def test_packages_that_are_no_longer_the_same_are_named(tmp_path: Path) -> None:
    stopped(configure(run_dir=tmp_path / "run"), "on_iteration", 1)
    path = tmp_path / "run" / "config.json"
    described = json.loads(path.read_text())
    described["versions"]["torch"] = "0.4"
    path.write_text(json.dumps(described))
    (warning,) = resume.open_run(tmp_path / "run").warnings
    assert warning.startswith("torch was 0.4 and is ")
    go_on(tmp_path / "run")
    (earlier,) = json.loads(path.read_text())["earlier"]
    assert earlier["versions"]["torch"] == "0.4"
    assert earlier["until_env_steps"] == 0  # the checkpoint that it went on from
    path.write_text("no JSON")
    assert resume.open_run(tmp_path / "run").warnings == []


def test_a_directory_in_use_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: Callable[[Config], Path]
) -> None:
    config = configure(run_dir=tmp_path / "run")
    stopped(config)
    with claimed(tmp_path / "run"):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert run.main(["--resume", "run", "--import", "toy_envs"]) == 2
        captured = capsys.readouterr()
        assert captured.err == "error: run directory run is in use by another process\n"
        assert "to go on" not in captured.out
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    go_on(tmp_path / "run")
    assert differences(tmp_path / "run", whole(config)) == []


# What is reported.


@pytest.mark.parametrize("checkpoint_every", [1, 37, 150, 0])
def test_episodes_that_a_checkpoint_cuts_are_not_reported(checkpoint_every: int, tmp_path: Path) -> None:
    # Every episode is of five steps, and 16 steps hold no whole number of them.
    config = configure(
        env=PAYDAY, run_dir=tmp_path / "run", checkpoint_every=checkpoint_every, rollout_steps=16
    )
    stopped(config)
    go_on(tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    assert {row["episode_return_mean"] for row in rows} == {"1500.0"}
    assert {row["episode_length_mean"] for row in rows} == {"5.0"}


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {tag: [(s.step, s.value) for s in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_every_step_is_there_once(directory: Path) -> None:
    found, rows = scalars(directory), read_rows(directory)
    assert found.keys() == rows[0].keys() - {"env_steps"}
    for tag, points in found.items():
        expected = [(int(row["env_steps"]), float(row[tag])) for row in rows]
        expected = [(step, value) for step, value in expected if value == value]
        assert [step for step, _ in points] == [step for step, _ in expected]
        assert [value for _, value in points] == pytest.approx([value for _, value in expected])


@pytest.mark.parametrize(
    "stops",
    [
        [("on_iteration", 2)],
        [("on_iteration", 6), ("on_iteration", 2), ("on_checkpoint", 2)],
    ],
)
def test_tensorboard_has_every_step_once(stops: list[tuple[str, int]], tmp_path: Path) -> None:
    stopped(configure(run_dir=tmp_path / "run"), *stops[0])
    for stop in [*stops[1:], None]:
        time.sleep(1 - time.time() % 1)  # its files are in the order of the seconds in their names
        go_on(tmp_path / "run", *([StopAt(*stop)] if stop else []))
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == len(stops) + 1
    assert_every_step_is_there_once(tmp_path / "run")


# Processes that were killed.

MORTAL = """
import os, signal, toy_envs

what, _, count = os.environ.get("DIE", "").partition(" ")
left = int(count or 0)

def come():
    global left
    left -= 1
    return left == 0

def step(self, action, step=toy_envs.Walk.step):
    if what == "step" and come():
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, action)

def fsync(descriptor, fsync=os.fsync):
    if what == "write" and "/.step-" in os.readlink(f"/proc/self/fd/{descriptor}") and come():
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

toy_envs.Walk.step = step
os.fsync = fsync
"""


def call(*arguments: str, die: str = "") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(Path(toy_envs.__file__).parent), os.getcwd()])
    return subprocess.run(
        [sys.executable, "-m", "rlkit_es.run", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "DIE": die},
        check=False,
    )


def as_options(config: Config) -> list[str]:
    """The command line that describes ``config``."""
    default = Config.for_algorithm(config.algo)
    options = ["--algo", config.algo]
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            values = value if isinstance(value, tuple) else (value,)
            options += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return options


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its first segment and in the middle of writing a checkpoint, and ended."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("the checkpoint's file is found in /proc")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("killed"))
        Path("mortal.py").write_text(MORTAL)
        modules = ["--import", "toy_envs", "--import", "mortal"]
        started = call(*as_options(MORTAL_CONFIG), "--run-dir", "run", *modules, die="step 120")
        assert started.returncode == -signal.SIGKILL, started.stderr
        assert len(read_rows(Path("run"))) == 2
        assert call("--resume", "run", *modules, die="write 3").returncode == -signal.SIGKILL
        assert list(Path("run/checkpoints").glob(".*.tmp"))
        done = call("--resume", "run", *modules)
        assert (done.returncode, done.stderr) == (0, "")
        said = done.stdout.splitlines()
        assert said[0] == "going on with run from 157 steps"
        assert said[-1] == "run directory: run"
        return Path("run").absolute()


MORTAL_CONFIG = configure(eval_every=100)


def test_a_killed_process_is_gone_on_with(killed: Path, whole: Callable[[Config], Path]) -> None:
    assert run.parse(as_options(MORTAL_CONFIG)) == MORTAL_CONFIG
    assert differences(killed, whole(MORTAL_CONFIG)) == ["learning_curve.png"]  # a real one there


def test_tensorboard_has_every_step_of_a_killed_process_once(killed: Path) -> None:
    assert_every_step_is_there_once(killed)
