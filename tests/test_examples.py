from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ROOT = EXAMPLES.parent
SAYS = {
    "train_and_evaluate": "over 10 episodes",
    "custom_env": "mean return -",
    "custom_surrogate": "squashed: return -",
    "resume": "the same to the bit: True",
    "many_seeds": "mean ",
}

pytestmark = pytest.mark.usefixtures("nothing_stays_registered")


@pytest.mark.filterwarnings("ignore:.*Overriding environment")  # the same process registers it again
@pytest.mark.parametrize("name", SAYS)
def test_every_example_runs_again_and_again(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--steps", "1024"])
    for second in range(2):
        monkeypatch.setattr(time, "strftime", lambda form, second=second: f"{form}{second}")
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert SAYS[name] in capsys.readouterr().out


def test_a_run_goes_on_bit_for_bit_with_as_many_threads_as_there_are_cores() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "resume.py"), "--steps", "1024"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "4"},
        check=False,
    )
    assert SAYS["resume"] in done.stdout, done.stderr


def test_the_distributed_example_trains_on_two_ranks() -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(EXAMPLES / "distributed.py"), "--steps", "1024"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 ranks, ") == 1


def test_each_is_short_and_says_how_to_run_it() -> None:
    for script in EXAMPLES.glob("*.py"):
        text = script.read_text()
        assert f"examples/{script.name}``" in text.split('"""')[1]
        assert len(text.splitlines()) <= 45
    assert {script.stem for script in EXAMPLES.glob("*.py")} == {*SAYS, "distributed"}
