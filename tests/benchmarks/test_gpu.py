import json
from pathlib import Path

import gpu
import pytest
import torch
from recordings import as_a_gpu_would

from rlkit_es.learners.adam_learner import AdamLearner

SMALL = ["--device", "cpu", "--sizes", "8", "16", "--update-env", "CartPole-v1", "--rounds", "1"]


def test_every_way_is_measured_at_every_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_MOST_STEPS", 3)
    monkeypatch.setattr(gpu, "recorder", lambda device: as_a_gpu_would)
    monkeypatch.setattr(torch, "compile", lambda step, dynamic: step)
    monkeypatch.setattr(AdamLearner, "compile", lambda self, required: None)
    training = ["--envs", "CartPole-v1", "--num-envs", "8", "--iterations", "1"]
    output = tmp_path / "gpu.json"
    assert gpu.main([*SMALL, "--algos", "espo", *training, "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    ways = ["eager", "compiled", "recorded", "compiled, recorded"]
    updates = content["minibatch steps/s, espo"]
    assert {size: list(rates) for size, rates in updates.items()} == {"8": ways, "16": ways}
    trained = content["environment steps/s"]["CartPole-v1"]
    assert list(trained) == ["cpu", "cpu, eager", "cpu, recorded"]
    assert all(len(rates) == 1 and rates[0] > 0 for rates in [*updates["8"].values(), *trained.values()])
    assert "| 16 |" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main([]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: device 'cuda' cannot be used here")
    assert "\n" not in error
