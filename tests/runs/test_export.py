from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from torch import Tensor, nn
from toy_envs import Spaces

from rlkit_es.errors import UserError
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.encoders import ENCODERS, Encoder
from rlkit_es.models.networks import NETWORKS
from rlkit_es.runs.export import SUFFIXES, DeterministicPolicy, Format, export_policy
from rlkit_es.runs.faithfulness import largest_difference, rounding
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer

FORMATS: tuple[Format, ...] = ("onnx", "torchscript")
METADATA = {"env": "Toy-v0", "algo": "ppo", "env_steps": "128", "rlkit_es": "1.2.3"}
LEAVES = {"hand": Box(-1, 1, (2, 2)), "eye": Box(-9, 9, (3,), np.float64)}
TOYS = {
    "ToyDict-v0": (Dict(LEAVES), Box(np.array([[-3, 0, 1], [-1, -1, -9]], np.float32), 9.0, (2, 3))),
    "ToyCountsFrom-v0": (Box(-5, 5, (4,)), Discrete(5, start=-2)),
    "ToyPicture-v0": (Box(0, 255, (36, 40, 2), np.uint8), Discrete(5, start=-2)),
    "ToyPictureBox-v0": (Box(0, 255, (1, 37, 36), np.uint8), Box(-3, 2, (2, 3))),
    "ToyUnbounded-v0": (Box(-np.inf, np.inf, (2,)), Box(-np.inf, np.inf, (2,), np.float64)),
}
CASES: dict[str, dict[str, Any]] = {
    "scaled onto the bounds": {"env": "Pendulum-v1"},
    "clipped, no normaliser": {
        "env": "Pendulum-v1",
        "scale_actions": False,
        "normalize_observations": False,
        "activation": "relu",
    },
    "discrete": {"env": "CartPole-v1"},
    "discrete, no normaliser": {"env": "CartPole-v1", "normalize_observations": False, "activation": "elu"},
    "dict of boxes, matrix of actions": {"env": "ToyDict-v0", "activation": "silu"},
    "counts from -2": {"env": "ToyCountsFrom-v0"},
    "no bounds": {"env": "ToyUnbounded-v0"},
    "network of one's own": {"env": "Pendulum-v1", "network": "gated"},
    "pictures": {"env": "ToyPicture-v0", "precision": "float32"},
    "pictures, trained in bfloat16": {"env": "ToyPicture-v0", "precision": "bfloat16"},
    "pictures, matrix of actions, two encoders": {"env": "ToyPictureBox-v0", "share_encoder": False},
    "pictures, encoder of one's own": {"env": "ToyPictureBox-v0", "encoder": "coarse"},
}
PICTURES = [case for case in CASES if case.startswith("pictures")]


class Gated(nn.Module):
    """An ordinary module of several kinds of layers."""

    def __init__(self, sizes: list[int], activation: str, output_gain: float, generator: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, 2 * b) for a, b in pairwise(sizes[:-1]))
        self.norm = nn.LayerNorm(sizes[-2])
        self.last = nn.Linear(sizes[-2], sizes[-1])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = nn.functional.glu(layer(x), dim=-1)
        return self.last(self.norm(x))


class Faulty(Gated):
    """What it should not do begins once it has been trained: before, it would be refused."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.fault = nn.Parameter(torch.zeros(()))


class Undecided(Faulty):
    """Computes something else where its values are positive on average."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0.5 else (1 + self.fault) * x)


class Noisy(Faulty):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.fault * torch.randn_like(x[..., :1])


class Looped(Gated):
    """Takes rows one at a time, as many as there are."""

    def forward(self, x: Tensor) -> Tensor:
        rows = map(super().forward, x)
        return torch.stack([*rows])


class Indexed(Gated):
    """Takes observations below 9.5 alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.arange(10.0)[x[:, :1].round().long().abs()]


class Coarse(nn.Module):
    """12 numbers of a picture, by a convolution of strides that do not overlap."""

    def __init__(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(shape[0], 3, 18, stride=18)

    def forward(self, picture: Tensor) -> Tensor:
        return self.convolution(picture / 255).flatten(1)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    own = {"gated": Gated, "undecided": Undecided, "noisy": Noisy, "looped": Looped, "indexed": Indexed}
    for env_id, (observation, action) in TOYS.items():
        made = {"observation_space": observation, "action_space": action}
        gym.register(env_id, Spaces, kwargs=made, disable_env_checker=True)
    NETWORKS.update(own)
    ENCODERS["coarse"] = Coarse
    yield
    del ENCODERS["coarse"]
    for name in own:
        del NETWORKS[name]
    for env_id in TOYS:
        del gym.registry[env_id]


def trained(**settings: Any) -> Trainer:
    """A policy with statistics of its own whose actions differ, and reach the bounds."""
    small = {"num_envs": 4, "rollout_steps": 32, "epochs": 1, "minibatch_size": 64, "compile": "off"}
    fixed = {"hidden_sizes": (16, 16), "backend": "gymnasium"}
    trainer = Trainer(Config.for_algorithm("ppo", **{**small, **fixed, **settings}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train(256)
    trainer.close()
    with torch.no_grad():
        for parameter in trainer.policy.actor.parameters():
            size = 0.2 if parameter.ndim < 3 and parameter.numel() < 10_000 else 0.02
            parameter.add_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    return trainer


@pytest.fixture(scope="module")
def trainers() -> dict[str, Trainer]:
    return {case: trained(**settings) for case, settings in CASES.items()}


def export(trainer: Trainer, path: Path, format: Format) -> float | None:
    return export_policy(trainer.policy, trainer.spaces.observation, path, format, METADATA)


def in_float32(policy: ActorCritic) -> ActorCritic:
    """A copy with the arithmetic that every file has."""
    policy = copy.deepcopy(policy)
    for module in policy.modules():
        if isinstance(module, Encoder):
            module.precision = "float32"
    return policy


def here(trainer: Trainer, observation: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        policy = in_float32(trainer.policy)
        return policy.env_action(policy.act(torch.from_numpy(observation), None)).numpy()


def batches(trainer: Trainer) -> list[np.ndarray]:
    rng, spec = np.random.default_rng(0), trainer.spaces.observation
    size = spec.size
    if spec.pixels:
        channels, height, width = spec.shape
        coarse = [rng.integers(0, 256, (rows, channels, 3, 3)) for rows in (1, 7, 65)]
        large = [np.kron(x, np.ones((1, 1, 14, 14))) for x in coarse]
        return [x[:, :, :height, :width].astype(np.uint8) for x in large]
    shapes = [(1, 1.0), (7, 1.0), (7, 30.0), (2, 0.0), (33, 1e-3)]
    return [rng.normal(0, scale, (rows, size)).astype(np.float32) for rows, scale in shapes]


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_onnx_does_what_the_policy_does(
    trainers: dict[str, Trainer], case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = trainers[case]
    difference = export(trainer, Path("policy.onnx"), "onnx")
    assert difference is not None
    assert difference <= 1e-4  # at observations of up to thousands
    assert capfd.readouterr() == ("", "")
    session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
    for observation in batches(trainer):
        (action,) = session.run(["action"], {"observation": observation})
        assert_same(action, here(trainer, observation))


IN_A_FRESH_PROCESS = """
import sys
sys.modules["rlkit_es"] = None  # cannot be imported
import numpy as np, torch
for file in sys.argv[1:]:
    extra = {"metadata.json": ""}
    policy = torch.jit.load(file, _extra_files=extra)
    print(extra["metadata.json"].decode())
    given = np.load(file + ".given.npz")
    np.savez(file + ".found.npz", **{name: policy(torch.from_numpy(given[name])).numpy() for name in given})
"""


def test_torchscript_does_what_the_policy_does_without_this_library(
    trainers: dict[str, Trainer], capfd: pytest.CaptureFixture[str]
) -> None:
    files = {str(number): trainer for number, trainer in enumerate(trainers.values())}
    for file, trainer in files.items():
        assert export(trainer, Path(file), "torchscript") == 0
        np.savez(f"{file}.given.npz", *batches(trainer))
    assert capfd.readouterr() == ("", "")
    command = [sys.executable, "-W", "ignore", "-c", IN_A_FRESH_PROCESS, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [METADATA] * len(files)
    for file, trainer in files.items():
        found = np.load(f"{file}.found.npz")
        for name, observation in np.load(f"{file}.given.npz").items():
            assert_same(found[name], here(trainer, observation))


def test_an_onnx_file_says_what_it_is(trainers: dict[str, Trainer]) -> None:
    export(trainers["scaled onto the bounds"], Path("policy.onnx"), "onnx")
    model = onnx.load("policy.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    (given,), (returned,) = model.graph.input, model.graph.output
    assert (given.name, returned.name) == ("observation", "action")
    rows, size = given.type.tensor_type.shape.dim
    assert rows.dim_param
    assert size.dim_value == 3
    # Nothing of the machine that it was made on.
    assert str(Path(__file__).parents[2]).encode() not in Path("policy.onnx").read_bytes()


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_has_no_more_in_it_than_the_actor(format: Format) -> None:
    trainer = trained(env="Pendulum-v1", hidden_sizes=(256, 256))
    export(trainer, Path("policy"), format)
    actor = sum(parameter.numel() for parameter in trainer.policy.actor.parameters())
    assert 4 * actor < Path("policy").stat().st_size < 4 * actor + 60_000


def test_pictures_go_in_as_bytes(trainers: dict[str, Trainer]) -> None:
    export(trainers["pictures"], Path("policy.onnx"), "onnx")
    session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert given.type == "tensor(uint8)"
    assert given.shape[1:] == [2, 36, 40]


@pytest.mark.parametrize("case", PICTURES)
def test_actions_differ_with_the_picture(trainers: dict[str, Trainer], case: str) -> None:
    *_, seen = batches(trainers[case])
    assert seen.dtype == np.uint8
    assert len(np.unique(here(trainers[case], seen), axis=0)) > 1


def test_exporting_leaves_the_policy_in_its_own_precision(trainers: dict[str, Trainer]) -> None:
    policy = trainers["pictures, trained in bfloat16"].policy
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    export(trainers["pictures, trained in bfloat16"], Path("policy"), "torchscript")
    assert {module.precision for module in policy.modules() if isinstance(module, Encoder)} == {"bfloat16"}
    assert all(torch.equal(x, before[name]) for name, x in policy.state_dict().items())


@pytest.mark.parametrize(
    ("case", "format"), [("pictures", "onnx"), ("pictures, matrix of actions, two encoders", "torchscript")]
)
def test_the_file_of_a_policy_of_pictures_has_no_more_in_it_than_the_actor(
    trainers: dict[str, Trainer], case: str, format: Format
) -> None:
    export(trainers[case], Path("policy"), format)
    actor = sum(parameter.numel() for parameter in trainers[case].policy.actor.parameters())
    assert 4 * actor < Path("policy").stat().st_size < 4 * actor + 60_000


@pytest.mark.parametrize(
    ("network", "format", "message"),
    [
        ("undecided", "onnx", "this network cannot be written as ONNX: "),
        ("undecided", "torchscript", "the exported policy differs from this one by "),
        ("noisy", "onnx", "the exported policy differs from this one by "),
        ("noisy", "torchscript", "the exported policy differs from this one by "),
        ("looped", "onnx", "this network cannot be written as ONNX: "),
        ("looped", "torchscript", "this network cannot be written as TorchScript: "),
        (
            "indexed",
            "torchscript",
            "the exported policy cannot be checked, since this one fails on random observations: ",
        ),
    ],
)
def test_a_network_that_cannot_be_exported_leaves_what_was_there(
    network: str, format: Format, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = trained(env="Pendulum-v1", network=network)
    Path("there.bin").write_text("from before")
    with pytest.raises(UserError) as refused:
        export(trainer, Path("there.bin"), format)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert [path.name for path in Path().iterdir()] == ["there.bin"]
    assert Path("there.bin").read_text() == "from before"
    assert capfd.readouterr() == ("", "")


def test_a_file_that_onnxruntime_does_not_load_is_an_error_of_one_line(
    trainers: dict[str, Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("no kernel\nfor GRU")

    monkeypatch.setattr(onnxruntime, "InferenceSession", load)
    message = r"^this network cannot be written as ONNX: no kernel; try the other --format$"
    with pytest.raises(UserError, match=message):
        export(trainers["discrete"], Path("policy.onnx"), "onnx")
    assert not Path("policy.onnx").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_cannot_be_written_is_an_error_of_one_line(
    trainers: dict[str, Trainer], format: Format
) -> None:
    with pytest.raises(UserError, match=r"^cannot write no/such/policy\.bin: No such file or directory$"):
        export(trainers["discrete"], Path("no/such/policy.bin"), format)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_what_is_missing_for_onnx_is_named(
    trainers: dict[str, Trainer], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainers["discrete"]
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"^ONNX needs {missing}: pip install 'rlkit_es\[export\]'$"):
        export(trainer, Path("policy.onnx"), "onnx")
    export(trainer, Path("policy.pt"), "torchscript")


def test_without_onnxruntime_the_file_is_written_unchecked(
    trainers: dict[str, Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainers["discrete"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export(trainer, Path("policy.onnx"), "onnx") is None
    onnx.checker.check_model("policy.onnx")


def test_every_format_has_a_suffix() -> None:
    assert set(SUFFIXES) == set(FORMATS)


@torch.no_grad()
@pytest.mark.parametrize(
    "case", ["scaled onto the bounds", "discrete", "counts from -2", "no bounds", "pictures"]
)
def test_differences_are_found(trainers: dict[str, Trainer], case: str) -> None:
    trainer = trainers[case]
    spec = trainer.spaces.observation
    policy, module = trainer.policy, DeterministicPolicy(trainer.policy)

    def same(observation: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(observation)).numpy()

    def one_row_otherwise(observation: np.ndarray) -> np.ndarray:
        action = same(observation).copy()
        if policy.action.discrete:
            worst = policy.actor(policy.normalize(torch.from_numpy(observation))).argmin(-1)
            action[len(action) // 2] = worst[len(action) // 2] + policy.action.start
        else:
            action[len(action) // 2] += 1e-3
        return action

    assert largest_difference(policy, spec, same) == 0
    assert largest_difference(policy, spec, one_row_otherwise) > 1e-5
    assert largest_difference(policy, spec, lambda x: same(x)[:1]) == np.inf
    assert largest_difference(policy, spec, lambda x: same(x).astype(np.int32)) == np.inf
    if policy.action.discrete:
        assert largest_difference(policy, spec, lambda x: same(x) + 100) == np.inf
    else:
        assert largest_difference(policy, spec, lambda x: same(x) * np.float32(np.nan)) == np.inf


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_a_policy_that_does_not_look_is_found_out(trainers: dict[str, Trainer], case: str) -> None:
    policy, spec = in_float32(trainers[case].policy), trainers[case].spaces.observation
    module = DeterministicPolicy(policy)

    def blind(observation: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(np.repeat(observation[:1], len(observation), 0))).numpy()

    assert largest_difference(policy, spec, blind) > 1e-3


@pytest.mark.parametrize("case", ["no bounds", "discrete, no normaliser"])
def test_what_float32_loses_is_no_difference(trainers: dict[str, Trainer], case: str) -> None:
    policy, spec = copy.deepcopy(trainers[case].policy), trainers[case].spaces.observation
    assert rounding(policy, spec) < 1e-4
    with torch.no_grad():
        for parameter in policy.actor.parameters():
            parameter.mul_(10)
    assert 1e-6 < rounding(policy, spec) < 1e-1
    difference = export_policy(policy, spec, Path("policy.onnx"), "onnx", METADATA)
    assert difference is not None
    assert difference < 1e-1


def test_noise_is_no_rounding() -> None:
    noisy = trained(env="Pendulum-v1", network="noisy")
    assert rounding(noisy.policy, noisy.spaces.observation) == 0
