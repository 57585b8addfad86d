"""A saved agent that is trained on with other settings, and recorded somewhere of its own."""

from __future__ import annotations

import copy
import csv
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import toy_envs  # noqa: F401 (registers environments)

import rlkit_es
from rlkit_es import ESPO, PPO, Algorithm, UserError
from rlkit_es.errors import CheckpointError
from rlkit_es.runs.playing import make_env

SMALL: dict[str, Any] = {
    "num_envs": 4,
    "rollout_steps": 16,
    "minibatch_size": 16,
    "epochs": 1,
    "critic_epochs": 1,
    "hidden_sizes": (8,),
    "compile": "off",
    "eval_episodes": 0,
    "backend": "gymnasium",
}


gym.register("ShortPendulum-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=50)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return PPO("Pendulum-v1", **SMALL).learn(128).save(tmp_path_factory.mktemp("model") / "model")


def steps_in(directory: Path) -> list[int]:
    with (directory / "metrics.csv").open(newline="") as file:
        return [int(float(row["env_steps"])) for row in csv.DictReader(file)]


def parameters(agent: Algorithm) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in agent.policy.parameters()]


@pytest.mark.parametrize("kind", [str, Path])
def test_it_is_recorded_in_a_directory_of_its_own(model: Path, tmp_path: Path, kind: type) -> None:
    agent = rlkit_es.load(model, run_dir=kind(tmp_path / "new"))
    agent.learn(64).learn(64)
    assert steps_in(tmp_path / "new") == [192, 256]
    assert rlkit_es.load(tmp_path / "new").env_steps == 256


def test_a_directory_that_holds_another_run_is_refused_and_left_alone(model: Path, tmp_path: Path) -> None:
    PPO("Pendulum-v1", **SMALL, run_dir=tmp_path / "other").learn(256)
    before = {path: path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="already holds a run"):
        rlkit_es.load(model, run_dir=tmp_path / "other").learn(64)
    assert {path: path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file()} == before


def test_an_agent_whose_training_failed_goes_on_in_its_own_directory(tmp_path: Path) -> None:
    class Fails(rlkit_es.Callback):
        def on_iteration(self, trainer: object, metrics: dict[str, float]) -> None:
            raise RuntimeError("of the user's")

    agent = PPO("Pendulum-v1", **SMALL, run_dir=tmp_path / "run")
    with pytest.raises(RuntimeError, match="of the user's"):
        agent.learn(64, callbacks=[Fails()])
    assert agent.learn(64).env_steps == 128


@pytest.mark.parametrize(
    "changes",
    [
        {"num_envs": 8},
        {"num_envs": 2},
        {"normalize_rewards": False},
        {"learning_rate": np.float32(1e-3), "num_envs": np.int64(8)},
        {"rollout_steps": 8},
        {"env": "ShortPendulum-v0"},
    ],
    ids=str,
)
def test_what_may_be_otherwise_is(model: Path, changes: dict[str, Any]) -> None:
    before = rlkit_es.load(model)
    agent = rlkit_es.load(model, **changes)
    assert {name: getattr(agent.config, name) for name in changes} == changes
    assert all(map(torch.equal, parameters(agent), parameters(before)))
    agent.learn(64)
    assert agent.env_steps >= 192
    assert not all(map(torch.equal, parameters(agent), parameters(before)))


def test_what_is_best_is_so_in_the_directory_of_its_own(tmp_path: Path) -> None:
    PPO("CartPole-v1", **SMALL, run_dir=tmp_path / "old", checkpoint_every=256).learn(512)
    agent = rlkit_es.load(tmp_path / "old", run_dir=tmp_path / "new")
    agent._trainer.progress.best_return = 1e6
    agent.learn(512)
    best = rlkit_es.load(tmp_path / "new", checkpoint="best")
    assert best._trainer.progress.best_return < 1e6


def test_returns_of_another_environment_are_not_mixed_with_those_before(tmp_path: Path) -> None:
    path = PPO("CartPole-v1", **SMALL).learn(1024).save(tmp_path / "cart")
    assert rlkit_es.load(path)._trainer.episodes.recent
    gym.register("ShortCartPole-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=5)
    agent = rlkit_es.load(path, env="ShortCartPole-v0")
    assert agent._trainer.progress.best_return == float("-inf")
    assert agent.learn(64).metrics["episode_length_mean"] == 5


def test_steps_may_be_a_number_of_numpys(model: Path) -> None:
    assert rlkit_es.load(model).learn(np.int64(64)).env_steps == 192  # type: ignore[arg-type]


@pytest.mark.parametrize("backends", [("envpool", "gymnasium"), ("gymnasium", "envpool")])
def test_another_backend_may_round_the_bounds_otherwise(tmp_path: Path, backends: tuple[str, str]) -> None:
    pytest.importorskip("envpool")
    first, second = backends
    agent = PPO("Humanoid-v4", **{**SMALL, "backend": first}).learn(64)
    path = agent.save(tmp_path / "humanoid")
    other = rlkit_es.load(path, backend=second)
    assert rlkit_es.evaluate(other, episodes=1).episodes == 1
    assert other.learn(64).env_steps >= 128
    with closing(make_env(agent.config, agent.policy.action, "rgb_array")) as env:
        assert env.action_space.shape == (17,)


def test_rewards_may_be_scaled_from_here_on(tmp_path: Path) -> None:
    path = PPO("Pendulum-v1", **SMALL, normalize_rewards=False).learn(64).save(tmp_path / "raw")
    agent = rlkit_es.load(path, normalize_rewards=True).learn(64)
    scaler = agent._trainer.reward_scaler
    assert scaler is not None
    assert float(scaler.inverse_std) != 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": [16]}, r"^hidden_sizes is \(8,\) in .*, and cannot be otherwise: leave it out$"),
        ({"log_std_init": 1.0}, "^log_std_init is -0.75 in "),
        ({"normalize_observations": False}, "^normalize_observations is True in "),
        ({"constraint": "kl"}, "^constraint is None in "),
        ({"activation": "relu"}, "^activation is 'tanh' in "),
        ({"observation_clip": 5.0}, "^observation_clip is 10.0 in "),
        ({"scale_actions": False}, "^scale_actions is True in "),
        ({"learning_rate": -1.0}, "^learning_rate must be "),
        ({"max_kl": 0.05}, "^max_kl has no effect on ppo"),
        ({"algo": "trpo"}, "^algo is 'ppo' in .*, and cannot be otherwise: .* a new agent of another class"),
        ({"algo": "espo"}, "^algo is 'ppo' in "),
        ({"log_std_init": np.zeros(2)}, "^log_std_init is -0.75 in "),
        ({"wandb": "mine"}, "^wandb is given the run of a run directory: set run_dir too$"),
        ({"sticky_actions": 0.2}, r"^sticky_actions are for Atari .*, not for Pendulum-v1: set it to 0$"),
        ({"num_envs": 1, "rollout_steps": 4}, "^minibatch_size 16 is larger than the batch of 4"),
        ({"checkpoint": "best"}, "is one file"),
        ({"checkpoint": 64}, "is one file"),
        ({"lr": 1}, "^unknown setting 'lr'; here it is learning_rate"),
    ],
    ids=str,
)
def test_what_may_not_is_refused_by_name(model: Path, changes: dict[str, Any], message: str) -> None:
    for load in (rlkit_es.load, PPO.load):
        with pytest.raises(UserError, match=message) as refused:
            load(model, **changes)
        assert not isinstance(refused.value, CheckpointError)  # the file is right


def test_what_is_said_again_is_no_change(model: Path) -> None:
    assert rlkit_es.load(model, hidden_sizes=[8], constraint=None, log_std_init=-0.75).env_steps == 128


def test_steps_that_are_not_named_are_those_it_was_made_with() -> None:
    agent = PPO("Pendulum-v1", **SMALL, total_steps=192)
    assert agent.learn(64).learn().env_steps == 256


def test_a_copy_learns_as_long_as_what_it_is_a_copy_of() -> None:
    agent = PPO("Pendulum-v1", **SMALL, total_steps=192).learn(64)
    assert copy.deepcopy(agent).learn().env_steps == 256


def test_a_seed_of_its_own_gives_noise_of_its_own(tmp_path: Path) -> None:
    path = PPO("ToyPayday-v0", **SMALL).learn(64).save(tmp_path / "model")
    same, other, again = (
        parameters(rlkit_es.load(path, **changes).learn(64)) for changes in ({}, {"seed": 1}, {"seed": 1})
    )
    assert all(map(torch.equal, other, again))
    assert not all(map(torch.equal, same, other))


def test_damaged_checkpoints_that_are_passed_over_are_said(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    PPO("Pendulum-v1", **SMALL, run_dir=directory, checkpoint_every=64).learn(128)
    last = max((directory / "checkpoints").glob("step-*"))
    last.write_bytes(last.read_bytes()[:-10])
    for use in (rlkit_es.load, rlkit_es.resume):
        with pytest.warns(UserWarning, match=f"{last.name} is damaged.* the one before it"):
            use(directory)


def test_an_endless_setting_leaves_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    agent = ESPO("Pendulum-v1", **SMALL, max_grad_norm=float("inf"), run_dir=tmp_path / "run").learn(64)
    text = (tmp_path / "run" / "config.json").read_text()
    assert json.loads(text, parse_constant=refuse)["config"]["max_grad_norm"] == "inf"
    assert rlkit_es.load(tmp_path / "run").config.max_grad_norm == agent.config.max_grad_norm
