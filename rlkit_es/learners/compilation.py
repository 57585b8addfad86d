"""Whether the update is compiled, or recorded where there is a GPU."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Literal

import torch

from rlkit_es.errors import UserError
from rlkit_es.learners.recording import recorder

CompileMode = Literal["auto", "on", "off"]

# Below this many environment steps, compiling costs more time than it saves.
WORTH_COMPILING_STEPS = 50_000


def should_compile(
    mode: CompileMode, total_steps: int, device: torch.device, *, pixels: bool = False, ranks: int = 1
) -> tuple[bool, str]:
    """Whether to compile, and the reason in a few words.

    Args:
        mode: what was asked for.
        total_steps: to train for.
        device: where.
        pixels: observations are pictures, whose convolutions are large operations already.
        ranks: how many update together.

    Raises:
        UserError: ``mode`` is "on" and there is no C++ compiler, or it cannot be done on the device.
    """
    if mode == "off":
        return False, "eager: compile is off"
    if ranks > 1:
        if mode == "on":
            raise UserError("compile is on, but ranks exchange gradients between steps; use --compile auto")
        return False, f"eager: {ranks} ranks exchange gradients at every minibatch"
    if recorder(device) is not None:
        return True, "recorded as a graph of kernels, which is launched for each minibatch"
    if device.type != "cpu":
        if mode == "on":
            raise UserError(f"compile is on, which {device.type} has no way to do; use --compile auto")
        return False, f"eager: on {device.type} there is no compiled update"
    if pixels:
        if mode == "on":
            raise UserError("compile is on, which does not pay with pictures; use --compile auto")
        return False, "eager: convolutions are large operations already"
    if mode == "auto" and total_steps < WORTH_COMPILING_STEPS:
        return False, f"eager: under {WORTH_COMPILING_STEPS:,} steps compiling does not pay"
    missing = missing_compiler()
    if missing is None:
        return True, "compiled (up to a minute the first time, then from the disk cache)"
    if mode == "on":
        raise UserError(f"compile is on, but {missing}; install g++ or use --compile off")
    return False, f"eager: {missing}"


def missing_compiler() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    # As inductor looks for it, whose import takes more than a second.
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(compiler) else f"no C++ compiler was found (no {compiler})"
