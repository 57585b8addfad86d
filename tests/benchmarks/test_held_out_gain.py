"""What an update gains on its own batch and on fresh samples."""

import json

import held_out_gain
import pytest
import torch
from held_out_gain import Shift, prepare, summarize, update

from rlkit_es.training.config import Config


@pytest.fixture(scope="module")
def trained():
    trained = prepare("InvertedPendulum-v4", 4_096, 2, 3)
    yield trained
    trained.trainer.close()


def test_an_update_moves_a_copy_and_gains_on_its_own_batch(trained):
    before = {name: tensor.clone() for name, tensor in trained.trainer.policy.state_dict().items()}
    config = Config.for_algorithm("trpo", env="InvertedPendulum-v4")
    shift = update(trained, config, 0)
    assert shift.own_gain > 0
    assert 0 < shift.kl < 2 * config.max_kl
    assert shift.policy_steps == 1
    assert update(trained, config, 0) == shift
    for name, tensor in trained.trainer.policy.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_optimiser_goes_on_with_the_moments_of_training(trained):
    config = Config.for_algorithm("espo", env="InvertedPendulum-v4", epochs=1, minibatch_size=2048)
    warm = update(trained, config, 1)
    steps = trained.trainer.learner.state_tensors()["steps"]
    kept = steps.clone()
    steps.zero_()
    cold = update(trained, config, 1)
    steps.copy_(kept)
    assert warm.kl != cold.kl


def test_a_summary_has_means_an_error_and_the_gain_for_the_distance():
    of = summarize([Shift(1.0, 0.1, 0.02, 10.0), Shift(3.0, 0.3, 0.02, 30.0)])
    assert of["own_gain"] == 2
    assert of["gain"] == pytest.approx(0.2)
    assert of["gain_error"] == pytest.approx(0.1)
    assert of["gain_per_distance"] == pytest.approx(1.0)


def test_the_command_prints_a_table_and_saves_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(held_out_gain, "RESULTS", tmp_path / "committed.json")
    small = ["--trained-steps", "2048", "--batches", "2", "--fresh", "1", "--envs", "InvertedPendulum-v4"]
    variant = ["--variant", "careful=espo --deviation-threshold 0.05"]
    assert held_out_gain.main([*small, *variant, "--output", str(tmp_path / "results.json")]) == 0
    assert not (tmp_path / "committed.json").exists()
    assert "| careful |" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert results["InvertedPendulum-v4"]["careful"]["policy_steps"] >= 1


@pytest.mark.parametrize("variant", ["espo", "x=esppo", "x=espo --learning-rate -1"])
def test_a_variant_that_cannot_be_is_refused_before_anything_is_trained(variant, capsys):
    assert held_out_gain.main(["--variant", variant, "--trained-steps", "999999999"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
