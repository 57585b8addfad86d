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
    if ranks == 1 and recorder(device) is not None:
        return True, "recorded as a graph of kernels, which is launched for each minibatch"
    hindrance = _hindrance(device, pixels=pixels, ranks=ranks)
    if hindrance is None and mode == "auto" and total_steps < WORTH_COMPILING_STEPS:
        return False, f"eager: under {WORTH_COMPILING_STEPS:,} steps compiling does not pay"
    hindrance = hindrance or missing_compiler()
    if hindrance is None:
        return True, "compiled (up to a minute the first time, then from the disk cache)"
    if mode == "on":
        raise UserError(f"compile is on, but {hindrance}; use --compile auto")
    return False, f"eager: {hindrance}"


def _hindrance(device: torch.device, *, pixels: bool, ranks: int) -> str | None:
    """Why an update is not compiled, whatever is installed; None where nothing speaks against it."""
    if ranks > 1:
        return f"{ranks} ranks exchange gradients at every minibatch"
    if device.type != "cpu":
        return f"there is no compiled update on {device.type}"
    return "convolutions of pictures are large operations already" if pixels else None


def missing_compiler() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    # As inductor looks for it, whose import takes more than a second.
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(compiler) else f"no C++ compiler was found: install {compiler}"
