from __future__ import annotations

import csv
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rlkit_es.envs.vector_env import env_seeds
from rlkit_es.errors import UserError
from rlkit_es.runs.experiment import run
from rlkit_es.runs.run_directory import claim, create_run_directory, default_run_directory
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.training.trainer import Trainer

COLUMNS = {
    *("env_steps", "iteration", "wall_seconds", "steps_per_second", "episode_return_mean"),
    *("episode_length_mean", "ratio_deviation", "policy_steps", "stopped", "kept_fraction", "approx_kl"),
    *("entropy", "policy_loss", "value_loss", "explained_variance", "learning_rate", "gamma"),
    *("ratio_min", "ratio_max", "ratio_bias", "surrogate_variance", "surrogate_variance_within"),
    *("surrogate_variance_bound", "critic_steps", "grad_norm"),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return Config.for_algorithm(
        "sd_espo",
        env="CartPole-v1",
        num_envs=4,
        rollout_steps=64,
        epochs=3,
        compile="off",
        eval_episodes=5,
        seed=7,
        run_dir=tmp_path_factory.mktemp("runs") / "deep" / "er" / "run",
    )


@pytest.fixture(scope="module")
def evaluation(config: Config) -> Evaluation:
    trainer = Trainer(config)
    evaluation = run(trainer, 1000, progress=False)
    trainer.close()
    assert evaluation is not None
    return evaluation


@pytest.fixture
def directory(config: Config, evaluation: Evaluation) -> Path:
    return config.run_dir


def read_metrics(directory: Path) -> list[dict[str, float]]:
    with (directory / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_metrics_have_every_column_and_a_row_an_iteration(directory: Path) -> None:
    rows = read_metrics(directory)
    assert set(rows[0]) >= COLUMNS
    assert [row["iteration"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["env_steps"] >= 1000 > rows[-2]["env_steps"]
    for name in ("env_steps", "wall_seconds"):
        column = [row[name] for row in rows]
        assert column == sorted(set(column))
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(row["steps_per_second"] > 0 for row in rows)
    assert rows[0]["learning_rate"] == pytest.approx(Config.for_algorithm("sd_espo").learning_rate)


def test_tensorboard_has_the_same_scalars(directory: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    rows = read_metrics(directory)
    assert set(events.Tags()["scalars"]) >= set(rows[0]) - {"env_steps"}
    for name in set(rows[0]) - {"env_steps"}:
        scalars = events.Scalars(name)
        assert [s.step for s in scalars] == [row["env_steps"] for row in rows]
        np.testing.assert_allclose([s.value for s in scalars], [row[name] for row in rows], rtol=1e-6)


def test_config_says_what_ran_on_what(directory: Path, config: Config) -> None:
    described = json.loads((directory / "config.json").read_text())
    settings = described["config"]
    for name in ("algo", "env", "seed", "gamma", "deviation_threshold", "torch_threads", "env_threads"):
        assert settings[name] == getattr(config, name)
    assert settings["total_steps"] == 1000
    assert settings["hidden_sizes"] == list(config.hidden_sizes)
    assert set(settings) == set(config.__dataclass_fields__)
    assert described["backend"] in ("envpool", "gymnasium")
    assert described["backend_reason"]
    assert described["env_seeds"] == env_seeds(derive_seeds(7).envs, 4)
    assert len(set(described["env_seeds"])) == 4
    assert {"rlkit_es", "torch", "numpy", "gymnasium", "mujoco", "envpool"} <= set(described["versions"])
    assert described["versions"]["torch"]
    assert "git_revision" in described
    assert "eager" in described["update"]


def test_evaluation_is_written_and_consistent(directory: Path, evaluation: Evaluation) -> None:
    written = json.loads((directory / "evaluation.json").read_text())
    assert written == evaluation.as_dict()
    assert written["env_steps"] == read_metrics(directory)[-1]["env_steps"]
    assert written["episodes"] == len(written["returns"]) == len(written["lengths"]) == 5
    assert written["return_mean"] == pytest.approx(np.mean(written["returns"]))
    assert written["return_std"] == pytest.approx(np.std(written["returns"]))
    assert written["returns"] == [float(length) for length in written["lengths"]]


def test_the_learning_curve_is_a_picture(directory: Path) -> None:
    from matplotlib.image import imread

    assert (directory / "learning_curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = imread(directory / "learning_curve.png")
    assert min(picture.shape[:2]) >= 300
    assert picture.std() > 0


def test_a_directory_that_holds_a_run_is_refused_and_left_alone(directory: Path, config: Config) -> None:
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="already holds a run") as refused:
        run(Trainer(config), 256, progress=False)
    assert str(directory) in str(refused.value)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("place", ["file", "file/run", "file/deep/run"])
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UserError, match="cannot write run directory") as refused:
        create_run_directory(tmp_path / place)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "file").read_text() == "not a directory"


def test_an_empty_existing_directory_is_used(tmp_path: Path) -> None:
    create_run_directory(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoints"]


def test_runs_that_begin_in_the_same_second_have_a_directory_each(tmp_path: Path) -> None:
    default = tmp_path / "runs" / "env" / "seed0-20260101-000000"
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: claim(default), range(8)))
    assert sorted(path.name for path in claimed) == [
        default.name,
        *(f"{default.name}-{number}" for number in range(2, 9)),
    ]
    for path in claimed:
        create_run_directory(path)


def test_a_default_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a directory")
    with pytest.raises(UserError, match="cannot write run directory"):
        claim(tmp_path / "runs" / "env" / "seed0")


@pytest.mark.parametrize("env", ["HalfCheetah-v4", "dm_control/humanoid-run-v0", "my.module:My Env-v0"])
def test_the_default_directory_names_environment_algorithm_and_seed(env: str) -> None:
    path = default_run_directory(Config(algo="espo", env=env, seed=12))
    runs, name, algo, run_name = path.parts
    assert (runs, algo) == ("runs", "espo")
    assert run_name.startswith("seed12-")
    assert not set(name) & set("/: \\")


def test_without_a_run_directory_nothing_is_written(tmp_path: Path) -> None:
    config = Config.for_algorithm("ppo", env="CartPole-v1", num_envs=4, rollout_steps=16, compile="off")
    assert run(Trainer(config), 64, progress=False) is None
    assert list(tmp_path.iterdir()) == []
