"""What a function does to tensors, as text: the same text, the same function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


def operations(function: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> str:
    """Every operation of ``function(*tensors)``, a line each, and which tensors it returns.

    Tensors are named by where they come from; one from elsewhere is written out. Tracing by ``make_fx``
    says the same, but what it imports takes more than a second.
    """
    log = _Log(tensors)
    with log:
        result = function(*tensors)
    return "\n".join([*log.lines, f"return {log.named(result)}"])


class _Log(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what it sees, autograd's operations among it."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[str] = []
        self._known: dict[int, tuple[str, Tensor]] = {}  # with the tensor, so that no other gets its id
        self._name(tensors, "given")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it, torch would import it

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        arguments = self.named((args, dict(kwargs)))
        result = func(*args, **kwargs)
        self._name(pytree.tree_leaves(result), str(len(self.lines)))
        self.lines.append(f"{func} {arguments}")
        return result

    def named(self, values: Any) -> str:
        """``values`` with names in place of tensors."""
        return str(pytree.tree_map_only(Tensor, self._name_of, values))

    def _name(self, values: Sequence[Any], origin: str) -> None:
        for place, value in enumerate(values):
            if isinstance(value, Tensor):
                # What was changed in place keeps its first name: the line says which it was.
                self._known.setdefault(id(value), (f"{origin}.{place}", value))

    def _name_of(self, tensor: Tensor) -> str:
        if id(tensor) not in self._known:
            return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.tolist()}"
        return self._known[id(tensor)][0]
