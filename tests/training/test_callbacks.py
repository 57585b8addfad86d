from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlkit_es import PPO, Callback, Evaluation, Logger, UserError, load
from rlkit_es.ranks import Ranks
from rlkit_es.runs.checkpoint_file import read_checkpoint
from rlkit_es.runs.checkpoint_store import CheckpointStore
from rlkit_es.runs.experiment import History
from rlkit_es.training.callbacks import Hooks
from rlkit_es.training.config import Config
from rlkit_es.training.progress import crosses
from rlkit_es.training.trainer import Trainer

QUICK: dict[str, Any] = {"num_envs": 2, "rollout_steps": 32, "epochs": 1, "compile": "off"}


class Diary(Callback, Logger):
    """Everything that is called, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, float]] = []

    def log(self, metrics: dict[str, float]) -> None:
        self.said.append(("log", metrics["env_steps"]))

    def flush(self) -> None:
        self.said.append(("flush", 0))

    def close(self) -> None:
        self.said.append(("close", 0))

    def on_iteration(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        assert metrics == trainer.metrics
        self.said.append(("iteration", metrics["env_steps"]))

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        assert evaluation.env_steps == trainer.progress.env_steps
        self.said.append(("evaluation", evaluation.env_steps))

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        held = read_checkpoint(path).state["progress"]
        assert held["env_steps"] == trainer.progress.env_steps
        self.said.append(("checkpoint", held["env_steps"]))


class Scribbler(Callback, Logger):
    """Writes into what it is given."""

    def log(self, metrics: dict[str, Any]) -> None:  # type: ignore[override]
        metrics["phase"] = "warm-up"

    def on_iteration(self, trainer: Trainer, metrics: dict[str, Any]) -> None:  # type: ignore[override]
        metrics["phase"] = np.float32(1)


def test_what_a_callback_writes_into_its_metrics_is_its_own() -> None:
    agent = PPO("Pendulum-v1", **QUICK, run_dir="run")
    agent.learn(128, callbacks=[Scribbler()], loggers=[Scribbler()])
    assert "phase" not in agent.metrics
    agent.save("model")
    load("model").close()
    assert "phase" not in Path("run/metrics.csv").read_text()


def test_what_is_called_and_in_which_order() -> None:
    diary = Diary()
    agent = PPO("Pendulum-v1", **QUICK, checkpoint_every=128, eval_every=128, eval_episodes=2, run_dir="run")
    agent.learn(192, callbacks=[diary], loggers=[diary])
    assert diary.said == [
        *[("flush", 0), ("checkpoint", 0)],
        *[("log", 64), ("iteration", 64)],
        *[("evaluation", 128), ("log", 128), ("iteration", 128), ("flush", 0), ("checkpoint", 128)],
        *[("log", 192), ("iteration", 192), ("flush", 0), ("checkpoint", 192)],
        *[("close", 0), ("evaluation", 192)],
    ]


def test_without_a_run_directory_nothing_is_kept_and_the_rest_is_called() -> None:
    diary = Diary()
    PPO("Pendulum-v1", **QUICK).learn(128, callbacks=[diary], loggers=[diary])
    names = [name for name, _ in diary.said]
    assert names == ["log", "iteration", "log", "iteration", "close"]
    assert not list(Path().iterdir())


def test_empty_callbacks_and_loggers_change_nothing() -> None:
    class Silent(Logger):
        def log(self, metrics: dict[str, float]) -> None: ...

    watched, alone = (PPO("Pendulum-v1", **QUICK, eval_every=64 * watched) for watched in (1, 0))
    watched.learn(192, callbacks=[Callback()], loggers=[Silent()])
    alone.learn(192)
    held = alone.policy.state_dict()
    assert all(torch.equal(value, held[name]) for name, value in watched.policy.state_dict().items())


def test_a_stop_request_makes_the_iteration_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    class Stop(Callback):
        def on_iteration(self, trainer: Trainer, metrics: dict[str, float]) -> None:
            if metrics["iteration"] == 3:
                trainer.request_stop("enough")

    agent = PPO("Pendulum-v1", **QUICK, run_dir="run", eval_episodes=2)
    agent.learn(6400, callbacks=[Stop()], progress=True)
    assert agent.env_steps == 192
    assert "stopped at 192 steps: enough" in capsys.readouterr().out
    assert [int(p.stem.split("-")[1]) for p in sorted(Path("run/checkpoints").glob("step-*"))] == [0, 192]
    assert Path("run/evaluation.json").exists()
    agent.learn(64)
    assert agent.env_steps == 256


class Others(Ranks):
    """Another rank may have asked to stop."""

    asked: str | None = None

    def everyones(self, thing: Any) -> list[Any]:
        return [thing, self.asked] if thing is None else [thing]


@pytest.mark.parametrize("moment", ["on_iteration", "on_checkpoint"])
def test_all_ranks_stop_where_one_is_asked_to(moment: str, tmp_path: Path) -> None:
    ranks, callback = Others(), Callback()

    def ask(trainer: Trainer, _: Any) -> None:
        if trainer.progress.env_steps == 128:
            ranks.asked = "enough"

    setattr(callback, moment, ask)
    config = Config.for_algorithm("ppo", env="Pendulum-v1", **QUICK, checkpoint_every=128)
    trainer = Trainer(config, ranks=ranks)
    trainer.train(6400, Hooks(callbacks=[callback], store=CheckpointStore(tmp_path, keep=1)))
    assert (trainer.progress.env_steps, trainer.stop_reason) == (128, "enough")


@pytest.mark.parametrize(
    "hooks",
    [
        {"callbacks": Callback()},
        {"callbacks": [Callback]},
        {"callbacks": [lambda *_: None]},
        {"callbacks": [History()]},
        {"loggers": History()},
        {"loggers": [History]},
        {"loggers": [print]},
    ],
)
def test_what_is_no_list_of_callbacks_or_loggers_is_refused_in_one_line(hooks: dict[str, Any]) -> None:
    agent = PPO("CartPole-v1", num_envs=2, rollout_steps=8)
    (name,) = hooks
    with pytest.raises(UserError, match=rf"^{name} must be ") as refused:
        agent.learn(16, **hooks)
    assert "\n" not in str(refused.value)
    assert agent.env_steps == 0
    agent.close()


def test_loggers_are_closed_when_training_fails() -> None:
    class Fails(Callback):
        def on_iteration(self, trainer: Trainer, metrics: dict[str, float]) -> None:
            raise ZeroDivisionError

    diary = Diary()
    with pytest.raises(ZeroDivisionError):
        PPO("Pendulum-v1", **QUICK).learn(128, callbacks=[Fails()], loggers=[diary])
    assert diary.said == [("log", 64), ("close", 0)]


def test_evaluations_are_columns_of_the_iterations_that_they_follow() -> None:
    trainer = Trainer(
        Config.for_algorithm("ppo", env="CartPole-v1", eval_every=128, eval_episodes=3, **QUICK)
    )
    rows: list[dict[str, float]] = []

    class Rows(Logger):
        def log(self, metrics: dict[str, float]) -> None:
            rows.append(metrics)

    trainer.train(400, Hooks([Rows()]))
    trainer.close()
    before = 0.0
    for row in rows:
        due = crosses(int(before), int(row["env_steps"]), 128)
        assert math.isnan(row["evaluation_return_mean"]) != due
        assert math.isnan(row["evaluation_return_std"]) != due
        before = row["env_steps"]
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_the_best_checkpoint_is_the_best_by_evaluation() -> None:
    returns: dict[int, float] = {}

    class Remember(Callback):
        def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
            if trainer.progress.env_steps < trainer.progress.stage_end:
                returns[evaluation.env_steps] = evaluation.return_mean

    agent = PPO("CartPole-v1", **QUICK, eval_every=128, eval_episodes=3, run_dir="run")
    agent.learn(2000, callbacks=[Remember()])
    best = read_checkpoint(Path("run/checkpoints/best.safetensors")).state["progress"]
    assert best["best_return"] == max(returns.values())
    assert best["env_steps"] == max(returns, key=lambda steps: returns[steps])


@pytest.mark.parametrize(
    ("before", "after", "every", "expected"),
    [
        *[(0, 99, 100, False), (0, 100, 100, True), (99, 100, 100, True)],
        *[(100, 101, 100, False), (100, 350, 100, True), (5, 6, 0, False)],
    ],
)
def test_a_multiple_is_crossed_once(before: int, after: int, every: int, expected: bool) -> None:
    assert crosses(before, after, every) is expected


class _OnlyLogs:
    def log(self, metrics: dict[str, float]) -> None:
        pass


class _OnlyIterates:
    def on_iteration(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        pass


def test_what_has_a_part_of_the_methods_is_refused_before_training() -> None:
    agent = PPO("Pendulum-v1", **QUICK)
    hooks: list[dict[str, Any]] = [{"loggers": [_OnlyLogs()]}, {"callbacks": [_OnlyIterates()]}]
    for given in hooks:
        with pytest.raises(UserError, match=r"inherits from (Logger|Callback), got"):
            agent.learn(64, **given)
    assert agent.env_steps == 0


@pytest.mark.parametrize("backend", ["gymnasium", "gymnasium-async", "envpool"])
def test_training_goes_on_after_an_interruption_within_a_step(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "envpool":
        pytest.importorskip("envpool")
    agent = PPO("Pendulum-v1", **QUICK, backend=backend)
    agent.learn(64)
    made = agent._trainer.envs[0]

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(made, "recv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(64)
    assert agent.learn(64).env_steps == 128
    agent.close()
