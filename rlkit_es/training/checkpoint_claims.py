"""What a checkpoint's file claims, as far as it can be true: nothing of it is trusted."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rlkit_es.errors import CheckpointError, first_line
from rlkit_es.models.encoders import SMALLEST_PICTURE, weights_of_nature_cnn
from rlkit_es.training.config import Config
from rlkit_es.training.progress import Progress
from rlkit_es.types import ActionSpec, ObservationSpec, Spaces

_MOST_UNSEEN = 1_000_000


@contextlib.contextmanager
def malformed() -> Iterator[None]:
    """What goes wrong in reading what a file holds is a CheckpointError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise CheckpointError(f"what it holds is not of a checkpoint: {reason}") from error


def require_size(tensors: Mapping[str, Tensor], config: Config, spaces: Spaces) -> None:
    """Before anything is made: settings may not ask for more than ``tensors`` hold.

    Raises:
        CheckpointError: they do.
    """
    observation = spaces.observation
    encoded = observation.pixels and config.encoder == "nature_cnn"
    if encoded and (observation.shape[0] < 1 or min(observation.shape[1:]) < SMALLEST_PICTURE):
        raise CheckpointError(f"it is for pictures of shape {observation.shape}, which are too small")
    asked = weights_of_nature_cnn(observation.shape) if encoded else 0
    layers = config.hidden_sizes, config.sizes_of_critic
    for hidden, outputs in zip(layers, (spaces.action.size, 1), strict=True):
        sizes = (1 if observation.pixels else observation.size, *hidden, outputs)
        asked += sum(inputs * width for inputs, width in pairwise(sizes))
    held = sum(value.numel() for value in tensors.values())
    # A network of the user's own need not have a matrix for each pair of sizes.
    most = held if config.network == "mlp" else max(held, _MOST_UNSEEN)
    most_inputs = max(held, _MOST_UNSEEN)
    deepest = max(map(len, layers))
    if deepest > len(tensors) or asked > most or observation.size > most_inputs:
        raise CheckpointError(
            f"its settings ask for {deepest:,} layers with {asked:,} weights, and it holds {held:,} numbers"
        )


def read_spaces(state: Mapping[str, Any]) -> Spaces:
    """Of the environment.

    Raises:
        CheckpointError: they cannot be true.
    """
    with malformed():
        shape, raw = tuple(state["observation"]), dict(state["action"])
        raw |= {name: tuple(raw[name]) for name in ("low", "high", "shape")}
        action = ActionSpec(**raw)
        if len(shape) not in (1, 3):
            raise ValueError("an observation is neither numbers nor a picture")
        counts = (*shape, action.size, *action.shape)
        if not all(_is_count(n, 0, 2**31) for n in counts):
            raise ValueError("a size is not a whole number")
        if not isinstance(action.discrete, bool) or not _is_count(action.start, -(2**62), 2**62):
            raise ValueError("an action is either discrete, counted from a whole number, or not")
        bounds = (0, 0) if action.discrete else (action.size, action.size)
        if (len(action.low), len(action.high)) != bounds or not all(
            isinstance(bound, float) for bound in (*action.low, *action.high)
        ):
            raise ValueError("the bounds of the action are not a number for each dimension")
        if not action.discrete and math.prod(action.shape) != action.size:
            raise ValueError(f"an action of shape {action.shape} has not {action.size} dimensions")
    return Spaces(ObservationSpec(shape), action)


def read_progress(raw: Mapping[str, Any]) -> Progress:
    """How far training had come.

    Raises:
        ValueError: it cannot be true.
    """
    kinds = {name: type(value) for name, value in dataclasses.asdict(Progress()).items()}
    if {name: type(value) for name, value in raw.items()} != kinds:
        raise ValueError("the progress of training is not what it should be")
    progress = Progress(**raw)
    if not 0 <= progress.stage_begin <= min(progress.env_steps, progress.stage_end):
        raise ValueError("the stage of training has a negative length")
    return progress


def require_mersenne_twister(state: Tensor) -> Tensor:
    """``state``, if `torch.Generator` will not read beyond its 624 words for it.

    Raises:
        ValueError: its ``left`` and ``next`` do not fit.
    """
    left, taken = int(state[8:12].view(torch.int32)), int(state[16:24].view(torch.int64))
    if (left, taken) != (1, 0) and left + taken != 625:
        raise ValueError("the state of a generator is not one")
    return state


def _is_count(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < high
