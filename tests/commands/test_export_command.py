from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import small_runs
import torch

from rlkit_es import cli, load


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_runs.train(tmp_path_factory.mktemp("cartpole") / "run", *small_runs.CARTPOLE)


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_runs.train(tmp_path_factory.mktemp("pendulum") / "run", *small_runs.PENDULUM)


def export(arguments: str, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What the command prints."""
    capfd.readouterr()
    assert cli.main(["export", *arguments.split()]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def run_onnx(path: Path, observation: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (action,) = session.run(["action"], {"observation": observation})
    return action


def run_torchscript(path: Path, observation: np.ndarray) -> np.ndarray:
    return torch.jit.load(path)(torch.from_numpy(observation)).numpy()


RUNNERS = {"onnx": (run_onnx, "policy.onnx"), "torchscript": (run_torchscript, "policy.pt")}


def test_a_dot_in_the_name_of_a_model_is_not_the_begin_of_a_suffix(
    pendulum: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("rate-0.5", "rate-0.6.safetensors"):
        written = load(pendulum).save(name)
        export(f"{written} --format torchscript", capfd)
    assert {path.name for path in Path().glob("rate*.pt")} == {"rate-0.5.pt", "rate-0.6.pt"}


@pytest.mark.parametrize("format", RUNNERS)
def test_the_file_acts_as_the_run_does(
    cartpole: Path, pendulum: Path, format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    execute, name = RUNNERS[format]
    for original, size in ((cartpole, 4), (pendulum, 3)):
        run = small_runs.copy_of(original, original.parent.name)
        agent = load(run)
        checked, written = export(f"{run} --format {format}", capfd)
        assert checked.startswith("largest difference from torch over 1,000 observations: ")
        assert float(checked.rpartition(" ")[2]) <= 1e-5
        config = agent.config
        assert written == f"{config.env} {config.algo} at {agent.env_steps:,} steps: wrote {run / name}"
        for rows in (1, 7):
            observation = np.random.default_rng(0).normal(0, 3, (rows, size)).astype(np.float32)
            found, expected = execute(run / name, observation), agent.predict(observation)
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_which_checkpoint_and_where_may_be_chosen(pendulum: Path, capfd: pytest.CaptureFixture[str]) -> None:
    observation = np.random.default_rng(0).normal(0, 3, (7, 3)).astype(np.float32)
    assert export(f"{pendulum} --format torchscript --checkpoint 0 --output first", capfd)[-1] == (
        "Pendulum-v1 ppo at 0 steps: wrote first.pt"
    )
    first = load(pendulum, checkpoint="0")
    np.testing.assert_allclose(
        run_torchscript(Path("first.pt"), observation), first.predict(observation), atol=1e-5
    )
    first.save("model")
    export("model.safetensors --format torchscript", capfd)
    found = run_torchscript(Path("model.pt"), observation)
    np.testing.assert_array_equal(found, run_torchscript(Path("first.pt"), observation))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere --format onnx", "cannot read nowhere: No such file or directory"),
        ("{run} --format torchscript --checkpoint 77", "no checkpoint 77 in "),
        ("{run} --format onnx --output no/such/policy.onnx", "cannot write no/such/policy.onnx"),
        ("{run} --format torchscript --output directory.pt", "cannot write directory.pt"),
        ("{model} --format torchscript --output {model}", "would replace the model itself"),
        ("policy.pt --format torchscript", "--output policy.pt would replace the model itself"),
        ("{damaged} --format torchscript", "is damaged"),
    ],
)
def test_bad_input_is_one_error_line_and_exit_code_2(
    cartpole: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("directory.pt").mkdir()
    damaged, model = Path("damaged"), small_runs.checkpoints(cartpole)[-1]
    damaged.write_bytes(model.read_bytes())
    small_runs.damage(damaged)
    Path("policy.pt").write_bytes(model.read_bytes())
    given = arguments.format(run=cartpole, model=model, damaged=damaged)
    before = model.read_bytes()
    assert message in small_runs.the_error(f"export {given}", capsys)
    assert model.read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["damaged", "directory.pt", "policy.pt"]


def test_what_is_missing_is_said_in_one_line(
    cartpole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    line = small_runs.the_error(f"export {cartpole} --format onnx --output policy.onnx", capsys)
    assert line == "ONNX needs onnxscript: pip install 'rlkit_es[export]'"
    assert list(Path().iterdir()) == []


def test_an_unchecked_file_is_said_to_be_one(
    cartpole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    checked, written = export(f"{cartpole} --format onnx --output policy.onnx", capfd)
    assert checked.startswith("not checked: ")
    assert written.endswith("wrote policy.onnx")
    assert Path("policy.onnx").exists()


@pytest.mark.parametrize("arguments", ["{run}", "{run} --format pickle", "--format onnx"])
def test_what_cannot_be_parsed_is_exit_code_2(
    cartpole: Path, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", *arguments.format(run=cartpole).split()])
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
