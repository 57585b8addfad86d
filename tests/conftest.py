import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from rlkit_es.learners import registration

# For `import toy_envs` here, and for "toy_envs:ToyWalk-v0" in the library and its worker processes.
sys.path.insert(0, str(Path(__file__).parent / "envs"))
# The benchmarks and what makes the site are scripts, not packages.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[1] / "docs" / "generate"))


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Runs go to ./runs, and MuJoCo leaves its log in the current directory.
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # Small networks are many times slower with two threads where the machine is busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def nothing_stays_registered() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    with contextlib.suppress(ImportError):
        import ale_py  # noqa: F401  # registers its games once in a process, and not again after this
    tables = {kind: dict(table) for kind, table in registration._TABLES.items()}
    environments = dict(gym.registry)
    yield
    for kind, table in registration._TABLES.items():
        table.clear()
        table.update(tables[kind])
    gym.registry.clear()
    gym.registry.update(environments)
