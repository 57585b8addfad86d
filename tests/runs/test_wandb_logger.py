from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rlkit_es
from rlkit_es import PPO, run
from rlkit_es.errors import UserError

QUICK: dict[str, Any] = {
    "num_envs": 2,
    "rollout_steps": 32,
    "epochs": 1,
    "compile": "off",
    "eval_episodes": 0,
}


class Service:
    """Stands in for the wandb module: what it is told, by run."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[str, int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **settings: Any) -> SimpleNamespace:
        self.begun.append(settings)
        return SimpleNamespace(
            log=lambda shown, step: self.logged.append((settings["id"], step, shown)), finish=self._finish
        )

    def _finish(self) -> None:
        self.finished += 1


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    return service


def test_every_iteration_is_logged_over_environment_steps(service: Service) -> None:
    PPO("Pendulum-v1", **QUICK, wandb="project", run_dir="a/b/run").learn(128)
    (begun,) = service.begun
    assert begun["project"] == "project"
    assert begun["name"] == "a-b-run"
    assert begun["config"]["config"]["algo"] == "ppo"
    assert [step for _, step, _ in service.logged] == [64, 128]
    assert not any(math.isnan(value) for _, _, shown in service.logged for value in shown.values())
    assert "episode_return_mean" not in service.logged[0][2]  # no episode has ended
    assert "ratio_deviation" in service.logged[0][2]
    assert service.finished == 1


def test_a_resumed_run_goes_on_in_the_same_one(service: Service) -> None:
    PPO("Pendulum-v1", **QUICK, wandb="project", run_dir="run").learn(128)
    assert run.main(["--resume", "run", "--total-steps", "256"]) == 0
    assert [begun["id"] for begun in service.begun] == [service.begun[0]["id"]] * 2
    assert service.begun[1]["resume"] == "allow"
    assert [step for _, step, _ in service.logged] == [64, 128, 192, 256]
    PPO("Pendulum-v1", **QUICK, wandb="project", run_dir="other").learn(64)
    assert service.begun[2]["id"] != service.begun[0]["id"]


def test_a_new_run_at_the_place_of_another_is_another_one(service: Service) -> None:
    for _ in range(2):
        PPO("Pendulum-v1", **QUICK, wandb="project", run_dir="run").learn(64)
        shutil.rmtree("run")
    first, second = (begun["id"] for begun in service.begun)
    assert first != second


def test_without_a_run_directory_it_is_not_begun(service: Service) -> None:
    PPO("Pendulum-v1", **QUICK, wandb="project", run_dir="run").learn(64)
    begun = len(service.begun)
    rlkit_es.load("run").learn(64)  # in no directory that would say which run it is
    assert len(service.begun) == begun


def test_a_file_does_not_say_who_is_told_of_what_is_trained_from_it(service: Service) -> None:
    path = PPO("Pendulum-v1", **QUICK, wandb="theirs", run_dir="run").learn(64).save("model")
    begun = len(service.begun)
    rlkit_es.load(path, run_dir="mine").learn(64)
    assert len(service.begun) == begun
    rlkit_es.load(path, run_dir="told", wandb="mine").learn(64)
    assert [one["project"] for one in service.begun[begun:]] == ["mine"]


def test_its_absence_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^wandb is not installed: pip install 'rlkit_es\[wandb\]'"):
        PPO("Pendulum-v1", **QUICK, wandb="project", run_dir="run").learn(64)


def test_its_refusal_is_one_line(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: Any) -> None:
        raise RuntimeError("api_key not configured\nuse wandb login")

    monkeypatch.setattr(service, "init", refuse)
    with pytest.raises(UserError, match=r"^wandb cannot begin \(api_key not configured\); WANDB"):
        PPO("Pendulum-v1", **QUICK, wandb="project", run_dir="run").learn(64)


def test_the_real_one_logs_to_disk_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    PPO("Pendulum-v1", **QUICK, wandb="project", run_dir="run").learn(128)
    assert list(Path("run/wandb").glob("offline-run-*/*.wandb"))
