"""A recording as a GPU makes it, of what runs on the CPU."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

WARM_UP = 3


def as_a_gpu_would(run: Callable[[], Any]) -> Callable[[], Any]:
    """Warms up, and writes down each operation with the memory that it reads and writes.

    A replay is those operations on that memory: no Python of ``run`` is called again, so that what it
    would have looked up, closed over or decided anew stays as it was.
    """
    for _ in range(WARM_UP):
        run()
    tape = _Tape()
    with tape:
        results = run()

    @torch.no_grad()
    def replay() -> Any:
        for function, arguments, keywords, result in tape.operations:
            again = function(*arguments, **keywords)
            for old, new in zip(pytree.tree_leaves(result), pytree.tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)
        return results

    return replay


class _Tape(TorchDispatchMode):
    """Operations but for those that only name a part of another tensor's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        shares = [of.alias_info for of in func._schema.returns if of.alias_info is not None]
        if not shares or any(alias.is_write for alias in shares):
            self.operations.append((func, args, kwargs or {}, result))
        return result


class AsksNothing(TorchDispatchMode):
    """Refuses what a recording cannot hold: asking for a value, shapes that depend on one, host data."""

    REFUSED: ClassVar = {
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.lift_fresh.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.equal.default,
    }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.REFUSED, func
        if func is torch.ops.aten.index.Tensor:
            assert all(index is None or index.dtype != torch.bool for index in args[1]), func
        return func(*args, **(kwargs or {}))
