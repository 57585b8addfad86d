import sys
from pathlib import Path

import pytest

# For `import toy_envs` here, and for "toy_envs:ToyWalk-v0" in the library and its worker processes.
sys.path.insert(0, str(Path(__file__).parent / "envs"))


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Runs go to ./runs, and MuJoCo leaves its log in the current directory.
    monkeypatch.chdir(tmp_path)
