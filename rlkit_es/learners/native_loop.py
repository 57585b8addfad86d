"""A loop over minibatches as native code, compiled ahead of time and kept on disk.

The step is traced to a graph, the graph becomes the body of a ``while_loop``, and AOTInductor compiles
that for this processor. What is compiled is found again under a hash of the step's operations, of the
shapes, of this file, of torch's version and of the processor: it cannot be out of date, and loading it
takes milliseconds and imports nothing of torch's compiler.
"""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlkit_es.errors import CompilationError, first_line
from rlkit_es.learners.operations import operations

# (*state, *inputs, index row, real row) -> state; state[0] is () bool: whether to go on.
FlatStep = Callable[..., Sequence[Tensor]]
# (first, count, *state, *inputs, index, real) -> (next, *state)
NativeLoop = Callable[..., Sequence[Tensor]]


@torch.no_grad()
def native_loop(
    step: FlatStep, state: Sequence[Tensor], inputs: Sequence[Tensor], index: Tensor, real: Tensor
) -> NativeLoop:
    """``step`` over rows ``first`` to ``count - 1`` of ``index`` and ``real``, while ``state[0]`` holds.

    Args:
        step: a pure function of tensors.
        state: examples of what it takes and returns; their shapes are compiled in.
        inputs: examples of what stays the same over the rows.
        index: (K, M) an example.
        real: (K, M) an example.

    Raises:
        CompilationError: it cannot be compiled here.
    """
    first = torch.zeros((), dtype=torch.int64)
    example = (first, first.clone(), *state, *inputs, index, real)
    arguments = (*state, *inputs, index[0], real[0])
    try:
        path = cache_directory() / f"{_key(operations(step, *arguments), example)}.pt2"
        if path.exists():
            try:
                return _load(path)
            except RuntimeError:
                path.unlink(missing_ok=True)  # damaged: compile it again
        _compile(_Loop(_traced(step, arguments), len(state)), example, path)
        return _load(path)
    except Exception as error:  # torch raises what its compiler, the linker or the disk gave it
        reason = first_line(error)
        raise CompilationError(f"the update could not be compiled ({reason}); use --compile off") from error


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/rlkit_es; ~/.cache/rlkit_es where that is unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlkit_es"


class _Loop(torch.nn.Module):
    """The loop in the form that ``torch.export`` takes."""

    def __init__(self, step: torch.fx.GraphModule, state_tensors: int) -> None:
        super().__init__()
        self.step = step
        self.state_tensors = state_tensors

    def forward(self, first: Tensor, count: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        from torch._higher_order_ops.while_loop import while_loop

        state, (*inputs, index, real) = rest[: self.state_tensors], rest[self.state_tensors :]

        def go_on(at: Tensor, going: Tensor, *_: Tensor) -> Tensor:
            return (at < count) & going

        def body(at: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            row = at.view(1)
            minibatch = index.index_select(0, row).squeeze(0), real.index_select(0, row).squeeze(0)
            return (at + 1, *self.step(*state, *inputs, *minibatch))

        result: tuple[Tensor, ...] = while_loop(  # type: ignore[no-untyped-call]
            go_on, body, (first.clone(), *(tensor.clone() for tensor in state))
        )
        return result


def _traced(step: FlatStep, arguments: Sequence[Tensor]) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx  # deferred, as all of the compiler

    def traceable(*flat: Tensor) -> list[Tensor]:
        # A compiled loop may not hand an input through as it is.
        return [new.clone() if any(new is given for given in flat) else new for new in step(*flat)]

    return make_fx(traceable)(*arguments)


def _key(step: str, example: Sequence[Tensor]) -> str:
    parts = [
        Path(__file__).read_text(),
        step,
        *(str((tensor.dtype, tensor.shape, tensor.stride())) for tensor in example),
        torch.__version__,
        str(torch.get_num_threads()),
        _processor(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    """What this machine's code is compiled for: the compiler is told to use all that it has."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return next((line for line in info.splitlines() if line.startswith(("flags", "Features"))), "")


def _load(path: Path) -> NativeLoop:
    # Not by `torch._inductor.aoti_load_package`, whose import takes more than a second.
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    return lambda *flat: loader.boxed_run(list(flat))


def _compile(loop: _Loop, example: Sequence[Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own future
        torch._inductor.aoti_compile_and_package(
            torch.export.export(loop, tuple(example)),
            package_path=str(temporary),
            # Indices come from shuffled_minibatches: always inside the batch.
            inductor_configs={"assert_indirect_indexing": False},
        )
    temporary.replace(path)
