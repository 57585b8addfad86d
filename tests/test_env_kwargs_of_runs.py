"""Wherever a run makes its environment, it is made with the run's `env_kwargs`."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import toy_envs  # registers environments

import rlkit_es
from rlkit_es import PPO, UserError, cli, run
from rlkit_es.envs.vector_env import env_seeds
from rlkit_es.runs.checkpoint_file import read_checkpoint, write_checkpoint
from rlkit_es.runs.checkpoint_store import find_checkpoint
from rlkit_es.runs.playing import make_env, play
from rlkit_es.runs.run_records import find_runs, group_seeds
from rlkit_es.training.checkpoint import Checkpoint, config_of

WALK = "toy_envs:ToyWalk-v0"
# Every episode of such a walk is of four steps; without them they are of two to seven.
FOUR: dict[str, Any] = {"lengths": [4]}
SMALL: dict[str, Any] = {
    "num_envs": 4,
    "rollout_steps": 16,
    "minibatch_size": 32,
    "epochs": 1,
    "critic_epochs": 1,
    "hidden_sizes": (8,),
    "compile": "off",
    "eval_episodes": 6,
    "total_steps": 100,
}


def make(env: str = WALK, env_kwargs: dict[str, Any] = FOUR, **settings: Any) -> PPO:
    return PPO(env, env_kwargs=env_kwargs, **{**SMALL, **settings})


def options(env: str = WALK, env_kwargs: dict[str, Any] = FOUR) -> list[str]:
    text = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in SMALL.items())
    text = text.replace("(8,)", "8")
    return ["--algo", "ppo", "--env", env, "--env-kwargs", json.dumps(env_kwargs), *text.split()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the command line."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert run.main([*options(), "--run-dir", str(directory), "--eval-every", "50"]) == 0
    return directory


def test_training_and_its_evaluations_are_in_that_environment(finished: Path) -> None:
    metrics = (finished / "metrics.csv").read_text().splitlines()
    (column,) = (i for i, name in enumerate(metrics[0].split(",")) if name == "episode_length_mean")
    assert {float(row.split(",")[column]) for row in metrics[1:]} == {4.0}
    assert set(json.loads((finished / "evaluation.json").read_text())["lengths"]) == {4}
    described = json.loads((finished / "config.json").read_text())
    assert described["config"]["env_kwargs"] == FOUR
    assert described["backend"] == "gymnasium"


@pytest.mark.parametrize("backend", ["auto", "gymnasium", "gymnasium-async"])
def test_from_python_too(backend: str) -> None:
    with closing(make(backend=backend, num_envs=2)) as agent:
        agent.learn(60)
        assert agent.metrics["episode_length_mean"] == 4
        assert set(rlkit_es.evaluate(agent, 3).lengths) == {4}


def test_pendulum_swings_otherwise_in_weaker_gravity() -> None:
    def returns(**env_kwargs: float) -> tuple[float, ...]:
        with closing(make("Pendulum-v1", env_kwargs, seed=3, backend="gymnasium")) as agent:
            return rlkit_es.evaluate(agent, 2, seed=1).returns

    light, usual = returns(g=5.0), returns()
    assert light != usual
    assert returns(g=10.0) == usual  # the constructor's own default
    env = gym.make("Pendulum-v1", g=5.0)
    agent = make("Pendulum-v1", {"g": 5.0}, seed=3)
    by_hand = []
    for seed in env_seeds(1, 2):
        observation, total, ended = env.reset(seed=seed)[0], 0.0, False
        while not ended:
            observation, reward, _, ended, _ = env.step(agent.predict(observation))
            total += float(np.float32(reward))
        by_hand.append(total)
    agent.close()
    assert sorted(light) == pytest.approx(sorted(by_hand), rel=1e-4)


# What was saved.


def test_what_is_loaded_goes_on_in_it(tmp_path: Path) -> None:
    with closing(make()) as agent:
        path = agent.learn(60).save(tmp_path / "agent")
    with closing(rlkit_es.load(path)) as loaded:
        assert loaded.config.env_kwargs == {"lengths": (4,)}
        loaded.learn(60)
        assert loaded.metrics["episode_length_mean"] == 4
        assert set(rlkit_es.evaluate(loaded, 3).lengths) == {4}


def test_it_may_be_loaded_for_others_and_another_environment_begins_with_none(tmp_path: Path) -> None:
    with closing(make()) as agent:
        path = agent.learn(60).save(tmp_path / "agent")
    assert len(agent._trainer.episodes.recent) > 0
    other = rlkit_es.load(path, env_kwargs={"lengths": [6]})
    assert len(other._trainer.episodes.recent) == 0  # those were of another environment
    assert set(rlkit_es.evaluate(other, 3).lengths) == {6}
    assert rlkit_es.load(path, env=WALK).config.env_kwargs == {"lengths": (4,)}
    assert rlkit_es.load(path, env="toy_envs:ToyOneStep-v0").config.env_kwargs == {}
    both = rlkit_es.load(path, env="toy_envs:ToyOneStep-v0", env_kwargs={"lengths": (3,)})
    assert set(rlkit_es.evaluate(both, 3).lengths) == {3}


def without_the_setting(path: Path) -> Checkpoint:
    """As an earlier version wrote it."""
    checkpoint = read_checkpoint(path)
    config = {name: value for name, value in checkpoint.state["config"].items() if name != "env_kwargs"}
    return Checkpoint(checkpoint.tensors, {**checkpoint.state, "config": config})


def test_a_file_of_before_is_of_none(tmp_path: Path) -> None:
    with closing(make(env_kwargs={})) as agent:
        path = agent.learn(60).save(tmp_path / "agent")
    old = without_the_setting(path)
    assert config_of(old) == agent.config
    write_checkpoint(path, old)
    loaded = rlkit_es.load(path)
    assert loaded.config.env_kwargs == {}
    assert list(loaded._trainer.episodes.recent) == list(agent._trainer.episodes.recent)
    assert rlkit_es.evaluate(loaded, 6) == rlkit_es.evaluate(agent, 6)


def test_a_run_directory_of_before_goes_on_and_is_the_same_experiment() -> None:
    for name in ("run", "new"):
        assert run.main([*options(env_kwargs={}), "--run-dir", name, "--backend", "gymnasium"]) == 0
    for path in Path("run/checkpoints").iterdir():
        write_checkpoint(path, without_the_setting(path))
    described = json.loads(Path("run/config.json").read_text())
    del described["config"]["env_kwargs"]
    Path("run/config.json").write_text(json.dumps(described))
    assert len(group_seeds(find_runs([Path("run"), Path("new")]))) == 1
    assert run.main(["--resume", "run", "--total-steps", "150", "--import", "toy_envs"]) == 0
    assert json.loads(Path("run/config.json").read_text())["config"]["env_kwargs"] == {}


def test_runs_with_others_are_another_experiment() -> None:
    for name, kwargs in (("four", FOUR), ("five", {"lengths": [5]})):
        assert run.main([*options(env_kwargs=kwargs), "--run-dir", name, "--eval-episodes", "0"]) == 0
    labels = group_seeds(find_runs([Path("four"), Path("five")]))
    assert [label.partition(" env_kwargs=")[2] for label in labels] == [
        "{'lengths': [4]}",
        "{'lengths': [5]}",
    ]


def test_a_file_may_not_hold_anything_else(tmp_path: Path) -> None:
    with closing(make()) as agent:
        path = agent.save(tmp_path / "agent")
    checkpoint = read_checkpoint(path)
    for wrong in (3, None, ["g"], {"g": float("nan")}, {"render_mode": "human"}):
        config = {**checkpoint.state["config"], "env_kwargs": wrong}
        write_checkpoint(path, Checkpoint(checkpoint.tensors, {**checkpoint.state, "config": config}))
        with pytest.raises(UserError, match=r"^its settings cannot be used: env_kwargs"):
            rlkit_es.load(path)


def test_a_run_goes_on_exactly_and_with_the_same_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constant = ["--learning-rate-schedule", "constant", "--horizon-growth", "1"]
    few = [*options(), "--checkpoint-every", "40", *constant]
    assert run.main([*few, "--run-dir", "whole", "--total-steps", "200"]) == 0
    assert run.main([*few, "--run-dir", "run"]) == 0
    asked = ["--resume", "run", "--total-steps", "200", "--import", "toy_envs"]
    capsys.readouterr()
    assert run.main([*asked, "--env-kwargs", '{"lengths": [5]}']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: env_kwargs is {'lengths': (4,)} in this run, and going on with another")
    assert run.main([*asked, "--env-kwargs", '{"lengths": [4]}']) == 0
    assert set(json.loads(Path("run/evaluation.json").read_text())["lengths"]) == {4}
    with pytest.raises(UserError, match=r"^env_kwargs is "):
        rlkit_es.resume("run", env_kwargs={})
    whole, again = (find_checkpoint(Path(name)) for name in ("whole", "run"))
    assert whole.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(x, again.tensors[name]) for name, x in whole.tensors.items())


# The commands that take a trained policy.


def test_it_is_evaluated_in_it(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["evaluate", str(finished), "--episodes", "6", "--output", "again.json"]) == 0
    again, before = (json.loads(p.read_text()) for p in (Path("again.json"), finished / "evaluation.json"))
    assert again == before


@pytest.mark.usefixtures("nothing_stays_registered")
def test_it_is_drawn_in_it() -> None:
    class Drawn(toy_envs.Walk):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (as Gymnasium has it)

        def __init__(self, render_mode: str | None = None, **settings: Any) -> None:
            super().__init__(**settings)
            self.render_mode = render_mode

    gym.register("ToyDrawn-v0", Drawn, disable_env_checker=True)
    with closing(make("ToyDrawn-v0")) as agent:
        with closing(make_env(agent.config, agent.policy.action, "rgb_array")) as env:
            played = list(play(env, agent.predict, episodes=3, seed=0))
        assert [episode.length for episode in played] == [4, 4, 4]
        wrong = dataclasses.replace(agent.config, env_kwargs={"lenghts": [4]})
        with pytest.raises(UserError, match=r"^cannot make ToyDrawn-v0 to draw it: .*'lenghts'"):
            make_env(wrong, agent.policy.action, "rgb_array")


def test_a_pendulum_in_weaker_gravity_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pygame")
    command = options("Pendulum-v1", {"g": 5.0, "max_episode_steps": 30})
    assert run.main([*command, "--eval-episodes", "1", "--run-dir", "run"]) == 0
    capsys.readouterr()
    assert cli.main(["record", "run"]) == 0
    shown = re.search(r"episode 1: return (-?[\d.]+) in 30 steps", capsys.readouterr().out)
    assert shown is not None
    assert float(shown[1]) == round(json.loads(Path("run/evaluation.json").read_text())["return_mean"], 1)


# Several seeds, and several processes.


def test_every_seed_is_trained_in_it() -> None:
    assert run.main([*options(), "--num-seeds", "2", "--run-dir", "seeds"]) == 0
    for seed in (0, 1):
        assert set(json.loads(Path(f"seeds/seed{seed}/evaluation.json").read_text())["lengths"]) == {4}


def test_a_typed_command_is_the_same_run_as_python() -> None:
    config = run.parse(shlex.split(shlex.join(options())))
    assert config == make().config
