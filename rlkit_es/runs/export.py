"""A policy as one file that needs nothing of this library: ONNX or TorchScript."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import json
import logging
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
from rlkit_es.runs.faithfulness import largest_difference, rounding
from rlkit_es.runs.files import write_atomically
from rlkit_es.types import ObservationSpec

Format = Literal["onnx", "torchscript"]

SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "torchscript": ".pt"}
INPUT, OUTPUT = "observation", "action"
_TOLERANCE = 1e-5
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


@contextlib.contextmanager
def _converting(format: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the exporter makes of a network of the user's own
        reason = first_line(error)
        raise UserError(
            f"this network cannot be written as {format}: {reason}; try the other --format"
        ) from error


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


@_converting("ONNX")
def _run_onnx(content: bytes) -> Callable[[np.ndarray], np.ndarray] | None:
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what is fatal: an error is raised, too
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    @_converting("ONNX")
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


@_converting("TorchScript")
def _run_torchscript(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    jit: Any = torch.jit
    with _quiet():
        loaded = jit.load(io.BytesIO(content))

    @_converting("TorchScript")
    def run(observation: np.ndarray) -> np.ndarray:
        action: np.ndarray = loaded(torch.from_numpy(observation)).numpy()
        return action

    return run


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
