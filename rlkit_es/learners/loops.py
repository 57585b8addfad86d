"""Running a minibatch step over the minibatches of an epoch: in Python, or compiled as one loop.

A step of a small network takes less time than the Python and dispatcher work around it. The compiled
loop has none: an epoch is one call, and the early stop is its exit condition.
"""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from rlkit_es.errors import UserError
from rlkit_es.learners.minibatch_step import StepInputs, StepState

Step = Callable[[StepState, StepInputs, Tensor, Tensor], StepState]


class Loop(Protocol):
    """Steps through minibatches ``first`` to ``count - 1``, or until ``state.going`` is false."""

    def __call__(
        self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor, first: int, count: int
    ) -> tuple[int, StepState]:
        """Run.

        Args:
            state: where to start from; left as it is.
            inputs: what every step is given.
            index: (K, M) samples of each minibatch, K >= ``count``.
            real: (K, M) bool.
            first: number of the first minibatch.
            count: how many minibatches there are.

        Returns:
            the number of the minibatch that would come next, and the state after the last one.
        """
        ...


class PythonLoop:
    """Eager. Without ``watch``, ``state.going`` is never looked at, so that the host never waits."""

    def __init__(self, step: Step, *, watch: bool) -> None:
        self._step = step
        self._watch = watch

    def __call__(
        self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor, first: int, count: int
    ) -> tuple[int, StepState]:
        at = first
        while at < count and (not self._watch or state.going):
            state = self._step(state, inputs, index[at], real[at])
            at += 1
        return at, state


class CompiledLoop:
    """One native loop for the CPU, compiled for the shapes of its first call, which never change.

    What is compiled is kept on disk under a hash of the step's own graph, of the shapes and of the
    compiler's version: another run with the same step starts without compiling.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._loop: Callable[..., Any] | None = None

    def __call__(
        self, state: StepState, inputs: StepInputs, index: Tensor, real: Tensor, first: int, count: int
    ) -> tuple[int, StepState]:
        carry = (torch.tensor(first), torch.tensor(count), state, inputs, index, real)
        leaves, spec = pytree.tree_flatten(carry)
        if self._loop is None:
            self._loop = _load_or_compile(self._step, leaves, spec)
        at, *after = self._loop(*leaves)
        return int(at), pytree.tree_unflatten(list(after), pytree.tree_structure(state))


def cache_directory() -> Path:
    """Where compiled loops are kept: $XDG_CACHE_HOME/rlkit_es, ~/.cache/rlkit_es where that is unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlkit_es"


class _EpochModule(torch.nn.Module):
    """The loop in the form that ``torch.export`` takes: flat tensors in, flat tensors out."""

    def __init__(self, step_graph: torch.fx.GraphModule, carried: int) -> None:
        super().__init__()
        self.step_graph = step_graph
        self.carried = carried  # tensors of the state

    def forward(self, first: Tensor, count: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        from torch._higher_order_ops.while_loop import while_loop

        state, (*inputs, index, real) = rest[: self.carried], rest[self.carried :]

        def go_on(at: Tensor, going: Tensor, *_: Tensor) -> Tensor:
            return (at < count) & going

        def body(at: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            row = at.view(1)
            minibatch = index.index_select(0, row).squeeze(0), real.index_select(0, row).squeeze(0)
            return (at + 1, *self.step_graph(*state, *inputs, *minibatch))

        result: tuple[Tensor, ...] = while_loop(  # type: ignore[no-untyped-call]
            go_on, body, (first.clone(), *(tensor.clone() for tensor in state))
        )
        return result


def _load_or_compile(step: Step, leaves: list[Any], spec: Any) -> Callable[..., Any]:
    _, _, state, inputs, index, real = pytree.tree_unflatten(leaves, spec)
    state_leaves, state_spec = pytree.tree_flatten(state)
    inputs_leaves, inputs_spec = pytree.tree_flatten(inputs)

    def flat_step(*flat: Tensor) -> list[Tensor]:
        state = pytree.tree_unflatten(list(flat[: len(state_leaves)]), state_spec)
        inputs = pytree.tree_unflatten(list(flat[len(state_leaves) : -2]), inputs_spec)
        after = pytree.tree_leaves(step(state, inputs, flat[-2], flat[-1]))
        # A compiled loop may not hand an input through as it is.
        return [leaf.clone() if any(leaf is given for given in flat) else leaf for leaf in after]

    with torch.no_grad():
        graph = make_fx(flat_step)(*state_leaves, *inputs_leaves, index[0], real[0])
    path = cache_directory() / f"{_key(graph, leaves)}.pt2"
    if path.exists():
        try:
            return _load(path)
        except RuntimeError:
            path.unlink(missing_ok=True)  # damaged, or of another machine: compile it again
    try:
        _compile(_EpochModule(graph, len(state_leaves)), leaves, path)
        return _load(path)
    except Exception as error:  # torch raises what its compiler, the linker or the disk gave it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the update could not be compiled ({reason}); use --compile off") from error


def _key(graph: torch.fx.GraphModule, leaves: list[Any]) -> str:
    parts = [
        Path(__file__).read_text(),
        graph.code,
        *(str((leaf.dtype, leaf.shape, leaf.stride())) for leaf in leaves),
    ]
    constants = [node.target for node in graph.graph.nodes if node.op == "get_attr"]
    parts += [f"{name}={getattr(graph, str(name)).tolist()}" for name in constants]
    parts += [torch.__version__, str(torch.get_num_threads()), _processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    """What this machine's code is compiled for: the compiler is told to use all that it has."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return next((line for line in info.splitlines() if line.startswith(("flags", "Features"))), "")


def _load(path: Path) -> Callable[..., Any]:
    loaded: Callable[..., Any] = torch._inductor.aoti_load_package(str(path))
    return loaded


def _compile(module: torch.nn.Module, leaves: list[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.pt2")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own future
        exported = torch.export.export(module, tuple(leaves))
        torch._inductor.aoti_compile_and_package(
            exported,
            package_path=str(temporary),
            inductor_configs={"assert_indirect_indexing": False},
        )
    temporary.replace(path)
