"""A grid on a cluster of two machines, both of them this one, and what may be lost on the way."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import learning
import pytest
from grids import ray_cluster, ray_machine
from grids.records import read_committed, read_finished

REPOSITORY = Path(learning.__file__).parents[1]
MACHINE = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
SHORT = ("--compile", "off", "--num-envs", "8", "--eval-episodes", "1")
# Some seconds, in which checkpoints come back.
LONG = (*SHORT, "--rollout-steps", "64", "--epochs", "1", "--checkpoint-every", "2048")
LONG_STEPS = "16000"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(REPOSITORY))  # what `pip install` does on a machine
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("machine")))
        cluster = Cluster(initialize_head=True, head_node_args=MACHINE)
        try:
            cluster.add_node(**MACHINE)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def learn(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(learning, "RESULTS", tmp_path / "results")
    return lambda *arguments: learning.main(_grid(*arguments))


def _grid(*arguments: str) -> list[str]:
    return ["--name", "smoke", "--envs", "CartPole-v1", "--seeds", "1", *arguments]


def _wait_for(condition: Callable[[], object], seconds: float = 40.0) -> None:
    latest = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.05)


def _training() -> list[str]:
    """The directories in which the machines of the cluster have a process."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.append(os.readlink(process / "cwd"))
    return [directory for directory in found if Path(directory).name.startswith("rlkit_es-")]


def _checkpoints(root: Path, variant: str) -> list[str]:
    """That have come back and can be gone on from."""
    found = root.glob(f"runs/smoke/*/{variant}/seed0/checkpoints/step-*")
    return sorted(path.name for path in found if "step-000000000000." not in path.name)


def test_a_grid_is_run_by_both_machines_and_is_the_same_as_here(cluster, learn, tmp_path, capsys):
    grid = ("--algos", "ppo", "espo", "--total-steps", "512")
    assert learn(*grid, "--ray", cluster.address, "--", *SHORT) == 0
    said = capsys.readouterr().out
    assert said.count("python -m rlkit_es.run --algo") == said.count("finished: ") == 2
    assert said.index("--algo ppo") < said.index("finished: ")
    assert said.index("--algo espo") < said.index("finished: ")
    there = read_committed(tmp_path / "results" / "smoke")
    assert [run.variant for run in there] == ["espo", "ppo"]
    (directory,) = (tmp_path / "runs").glob("smoke/*/ppo/seed0")
    assert {"config.json", "command.txt", "metrics.csv", "checkpoints", "tensorboard"} <= {
        path.name for path in directory.iterdir()
    }
    assert "deterministic evaluation" in directory.with_suffix(".log").read_text()

    assert learn("--name", "here", *grid, "--algos", "ppo", "--", *SHORT) == 0
    (here,) = read_finished(tmp_path / "runs" / "here")
    assert here.evaluation == there[1].evaluation
    assert here.config == there[1].config


def test_cells_of_a_machine_that_is_lost_go_on_elsewhere(cluster, learn, tmp_path, capsys):
    def lose_one() -> None:
        _wait_for(lambda: _checkpoints(tmp_path, "ppo") and _checkpoints(tmp_path, "sd_ppo"))
        (machine,) = cluster.worker_nodes
        cluster.remove_node(machine, allow_graceful=False)

    losing = threading.Thread(target=lose_one)
    losing.start()
    try:
        grid = ("--algos", "ppo", "sd_ppo", "--total-steps", LONG_STEPS)
        assert learn(*grid, "--ray", cluster.address, "--", *LONG) == 0
    finally:
        losing.join()
        cluster.add_node(**MACHINE)
    said = capsys.readouterr().out
    assert said.count("failed, once more: ") == 1
    assert "lost on the cluster: " in said
    assert said.count("python -m rlkit_es.run --algo") == 2
    assert said.count("python -m rlkit_es.run --resume") == 1
    assert len(read_committed(tmp_path / "results" / "smoke")) == 2


def test_what_an_ended_driver_left_missing_is_run_by_the_next(cluster, learn, tmp_path, capsys):
    script = (
        "import pathlib, sys, learning\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "learning.RUNS, learning.RESULTS = here / 'runs', here / 'results'\n"
        "sys.exit(learning.main(sys.argv[1:]))"
    )
    grid = ("--algos", "ppo", "--variant", "quick=ppo --total-steps 512", "--total-steps", LONG_STEPS)
    arguments = (*grid, "--ray", cluster.address, "--", *LONG)
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'benchmarks'}"}
    command = [sys.executable, "-c", script, *_grid(*arguments)]
    for ending in (signal.SIGKILL, signal.SIGINT):
        before = _checkpoints(tmp_path, "ppo")
        driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        _wait_for(lambda: list(tmp_path.rglob("quick/seed0/evaluation.json")))
        _wait_for(lambda: _checkpoints(tmp_path, "ppo") != before)  # noqa: B023
        driver.send_signal(ending)
        _, said = driver.communicate(timeout=30)
        _wait_for(lambda: not _training())
    assert driver.returncode == 130
    assert said.decode().strip().endswith("the same command goes on from the finished cells")

    assert learn(*arguments) == 0
    said = capsys.readouterr().out
    assert "cells: 2, finished before: 1" in said
    assert "python -m rlkit_es.run --algo" not in said
    assert said.count("python -m rlkit_es.run --resume") == 1
    assert len(read_committed(tmp_path / "results" / "smoke")) == 2


def test_a_failing_cell_is_tried_twice_and_named(cluster, learn, capsys):
    assert learn("--algos", "ppo", "--ray", cluster.address, "--", "--device", "nowhere") == 1
    said = capsys.readouterr()
    assert said.out.count("python -m rlkit_es.run --algo") == 2
    assert "error: ppo CartPole-v1 seed 0 failed: error: device 'nowhere'" in said.err


def test_a_cluster_that_does_not_answer_is_an_error_of_one_line(learn, monkeypatch, capsys):
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_cluster, "_LONGEST_ANSWER_SECONDS", 2.0)
    assert learn("--algos", "ppo", "--ray", "127.0.0.1:9") == 2
    assert capsys.readouterr().err == (
        "error: no Ray cluster at 127.0.0.1:9: no answer within 2 seconds; start one: ray start --head\n"
    )
    assert learn("--algos", "ppo", "--ray", "ray://there:10001") == 2
    assert "--ray must be auto or HOST:PORT, got 'ray://there:10001'" in capsys.readouterr().err


def test_without_ray_the_error_says_how_to_install_it(learn, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert learn("--algos", "ppo", "--ray", "auto") == 2
    said = capsys.readouterr().err
    assert said == "error: ray is not installed: pip install 'rlkit_es[ray]', or leave out --ray\n"


def test_a_run_is_read_in_the_opposite_order_of_writing_it():
    names = [
        "seed0/metrics.csv",
        "seed0/checkpoints/step-1.safetensors",
        "seed0/evaluation.json",
        "seed0.log",
    ]
    first, second, *_ = sorted(names, key=ray_machine.order)
    assert (first, second) == (names[2], names[1])
