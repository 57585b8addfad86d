"""Whether and how the update is compiled."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
from torch import Tensor

from rlkit_es.errors import UserError

CompileMode = Literal["auto", "on", "off"]

# Below this many environment steps, compiling costs more time than it saves.
WORTH_COMPILING_STEPS = 50_000


def should_compile(mode: CompileMode, total_steps: int) -> tuple[bool, str]:
    """Whether to compile, and the reason in a few words.

    Raises:
        UserError: ``mode`` is "on" and there is no C++ compiler.
    """
    if mode == "off":
        return False, "eager: compile is off"
    if mode == "auto" and total_steps < WORTH_COMPILING_STEPS:
        return False, f"eager: under {WORTH_COMPILING_STEPS:,} steps compiling does not pay"
    missing = missing_compiler()
    if missing is None:
        return True, "compiled"
    if mode == "on":
        raise UserError(f"compile is on, but {missing}; install g++ or use --compile off")
    return False, f"eager: {missing}"


def missing_compiler() -> str | None:
    """Why torch.compile cannot work here; None where it can."""
    try:
        # Deferred: importing inductor takes seconds, and eager runs need none of it.
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except Exception as error:  # torch raises various private types here
        return f"no C++ compiler was found ({type(error).__name__})"
    return None


def compiled(method: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """``method`` compiled once for the static shapes that it is always called with.

    Guards are skipped, which saves a tenth of a small update: the caller promises that shapes,
    dtypes, devices and closed-over values never change. Compiled code is kept by code object, so
    each call here compiles a copy: two agents in one process do not get each other's.
    """
    assert isinstance(method, MethodType)
    function = method.__func__
    own = MethodType(FunctionType(function.__code__.replace(), function.__globals__), method.__self__)
    options: dict[str, Any] = {
        "guard_filter_fn": lambda guards: [False] * len(guards),
        "assert_indirect_indexing": False,
    }
    if device.type == "cpu":
        options["cpp_wrapper"] = True
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)
