"""A policy as one file that needs nothing of this library: ONNX or TorchScript."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlkit_es.errors import UserError, first_line
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.encoders import Encoder
from rlkit_es.runs.files import write_atomically
from rlkit_es.types import ObservationSpec

Format = Literal["onnx", "torchscript"]

SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "torchscript": ".pt"}
CHECKED = 1_000  # random observations
INPUT, OUTPUT = "observation", "action"
_TOLERANCE = 1e-5
_SIZES = (0.1, 1.0, 10.0, 1_000.0)  # of observations, in standard deviations from the mean
_INSTALL = "pip install 'rlkit_es[export]'"


class DeterministicPolicy(nn.Module):
    """Raw observations, float32 or uint8 pictures, to what the environment takes.

    (N, O) or (N, C, H, W) to (N, *shape) float32, or (N,) int64.
    """

    def __init__(self, policy: ActorCritic) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        """The mode, scaled and clipped to the bounds."""
        return self.policy.env_action(self.policy.act(observation, None))


def export_policy(
    policy: ActorCritic, observation: ObservationSpec, path: Path, format: Format, metadata: Mapping[str, str]
) -> float | None:
    """Write ``policy`` to ``path``, once it is known to do there what it does here.

    Args:
        policy: on the CPU.
        observation: what it takes.
        path: of the file; its directory exists.
        format: of the file.
        metadata: kept in the file: with TorchScript as JSON in the extra file ``metadata.json``.

    Returns:
        the largest difference between both, as of `largest_difference`; None where nothing is installed
        that could run the file.

    Raises:
        UserError: a package is missing, the network cannot be written in this format, the difference
            is more than 1e-5 and than float32 explains, or the file cannot be written. There is no file
            then.
    """
    convert, load = {"onnx": (_onnx, _run_onnx), "torchscript": (_torchscript, _run_torchscript)}[format]
    # A copy: what it was copied from may share its memory with the critic, which would be written too.
    policy = copy.deepcopy(policy)
    for module in policy.modules():
        if isinstance(module, Encoder):
            module.precision = "float32"  # what every runtime has
    content = convert(DeterministicPolicy(policy).eval(), observation, metadata)
    exported = load(content)
    difference = None if exported is None else largest_difference(policy, observation, exported)
    if difference is not None and not difference <= max(_TOLERANCE, 3 * rounding(policy, observation)):
        raise UserError(
            f"the exported policy differs from this one by {difference:.2g}, more than {_TOLERANCE:g}: does "
            "the network decide by values or random numbers what it computes? Try the other --format"
        )
    write_atomically(path, content)
    return difference


@torch.no_grad()
def largest_difference(
    policy: ActorCritic, observation: ObservationSpec, exported: Callable[[np.ndarray], np.ndarray]
) -> float:
    """How far ``exported`` is from ``policy`` on random observations, of all sizes up to very large ones.

    Of continuous actions the difference, relative where the action is beyond 1; of discrete ones by how
    much less likely the action is, in nats. Infinite where anything is not a finite number.

    Args:
        policy: on the CPU.
        observation: what it takes.
        exported: from raw observations (N, O) to actions.
    """
    seen = _random_observations(policy, observation)
    expected = policy.env_action(policy.act(seen, None))
    found = torch.from_numpy(np.array(exported(seen.numpy())))
    alone = torch.from_numpy(np.array(exported(seen[:1].numpy())))
    if (found.shape, found.dtype) != (expected.shape, expected.dtype) or alone.shape != expected[:1].shape:
        return float("inf")
    if policy.action.discrete:
        log_probability = policy.actor(policy.normalize(seen))
        return _finite_max(_less_likely(log_probability, found - policy.action.start))
    return _finite_max(_relative(found, expected))


@torch.no_grad()
def rounding(policy: ActorCritic, observation: ObservationSpec) -> float:
    """How far ``policy`` is from itself in float64: that much another float32 program may differ too.

    Args:
        policy: on the CPU.
        observation: what it takes.
    """
    seen = _random_observations(policy, observation)
    result = _result(policy, seen)
    if not torch.equal(result, _result(policy, seen)):
        return 0.0  # it draws random numbers: that is no rounding
    try:
        exact = _result(copy.deepcopy(policy).double(), seen if observation.pixels else seen.double())
    except RuntimeError:  # a network of the user's own that is for float32 alone
        return 0.0
    difference = _finite_max(_relative(result.double(), exact))
    return difference if math.isfinite(difference) else 0.0


def _result(policy: ActorCritic, observation: Tensor) -> Tensor:
    """What rounding shows in: actions, or the log-probabilities of discrete ones."""
    parameters: Tensor = policy.actor(policy.normalize(observation))
    return parameters if policy.action.discrete else policy.env_action(policy.distribution.mode(parameters))


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).abs() / expected.abs().clamp(min=1.0)


def _less_likely(log_probability: Tensor, action: Tensor) -> Tensor:
    """(N,) of the most likely action minus of ``action``; infinite where that is none."""
    actions = log_probability.shape[-1]
    of_action = log_probability.gather(-1, action.clamp(0, actions - 1).unsqueeze(-1)).squeeze(-1)
    real = (action >= 0) & (action < actions)
    return torch.where(real, log_probability.amax(-1) - of_action, torch.inf)


def _finite_max(difference: Tensor) -> float:
    return float(difference.nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def _random_observations(policy: ActorCritic, observation: ObservationSpec) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if observation.pixels:
        return torch.randint(256, (CHECKED, *observation.shape), dtype=torch.uint8, generator=generator)
    noise = torch.randn(CHECKED, observation.size, generator=generator)
    noise = noise * torch.tensor(_SIZES).repeat(CHECKED // len(_SIZES)).unsqueeze(1)
    if policy.normalizer is None:
        return noise
    return policy.normalizer.mean + noise / policy.normalizer.inverse_std


def _example(observation: ObservationSpec) -> Tensor:
    return torch.zeros(2, *observation.shape, dtype=observation.dtype)


def _onnx(module: nn.Module, observation: ObservationSpec, metadata: Mapping[str, str]) -> bytes:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {' and '.join(missing)}: {_INSTALL}")
    with _quiet(), _converting("ONNX"):
        program = torch.onnx.export(
            module,
            (_example(observation),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        if program is None:  # what the other exporter returns
            raise RuntimeError("the exporter gave nothing")
        model = program.model_proto
    # The exporter's notes name the files that the module was written in.
    graph: Any = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    content: bytes = model.SerializeToString()
    return content


def _run_onnx(content: bytes) -> Callable[[np.ndarray], np.ndarray] | None:
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(observation: np.ndarray) -> np.ndarray:
        (action,) = session.run([OUTPUT], {INPUT: observation})
        return np.asarray(action)

    return run


def _torchscript(module: nn.Module, observation: ObservationSpec, metadata: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    jit: Any = torch.jit
    with _quiet(), _converting("TorchScript"), torch.no_grad():
        traced = jit.trace(module, _example(observation), check_trace=False)
        # Frozen: the critic is left out, and parameters become constants.
        jit.save(jit.freeze(traced), buffer, _extra_files={"metadata.json": json.dumps(dict(metadata))})
    return buffer.getvalue()


def _run_torchscript(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    jit: Any = torch.jit
    with _quiet():
        loaded = jit.load(io.BytesIO(content))

    def run(observation: np.ndarray) -> np.ndarray:
        action: np.ndarray = loaded(torch.from_numpy(observation)).numpy()
        return action

    return run


@contextlib.contextmanager
def _converting(format: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the exporter makes of a network of the user's own
        reason = first_line(error)
        raise UserError(
            f"this network cannot be written as {format}: {reason}; try the other --format"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters speak of packages that are not needed and of what will change in them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
