"""The processes that train one policy together, each a rank with environments of its own.

What the rest of the library asks of them is `Ranks`; alone, every answer is the question itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rlkit_es.errors import UserError, first_line

_T = TypeVar("_T")


class LostRankError(UserError):
    """Another rank does not answer: it has ended, or the network is down."""


class Ranks:
    """This process alone.

    Every method is called by all ranks, in the same order, and is the same to all of them but for what
    is said to be a rank's own.
    """

    rank = 0
    size = 1
    local_rank = 0  # among those of this machine
    local_size = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """``x`` summed over ranks, which overwrites it."""
        return x

    def differentiable_sum(self, x: Tensor) -> Tensor:
        """``x`` summed over ranks, of which gradients are followed; each rank's loss is a share of all."""
        return x

    def gather(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """The rows of all ranks, in their order.

        Args:
            x: (M, ...) this rank's; gradients are not followed.
            sizes: M of each rank, of `sizes`; None: it is the same for all.
        """
        return x

    def own(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """The rows (M, ...) of this rank among those of all: what undoes `gather`."""
        return x

    def sizes(self, own: int) -> list[int]:
        """The number that each rank gives."""
        return [own]

    def everyones(self, thing: _T) -> list[_T]:
        """What each rank gives, in their order: small things made of numbers and strings."""
        return [thing]

    def from_first(self, thing: _T) -> _T:
        """What the first rank gives."""
        return thing

    def copy_from_first(self, x: Tensor) -> None:
        """Overwrite ``x`` with the first rank's."""


ALONE = Ranks()


class Group(Ranks):
    """The ranks of torch's default process group, which exists.

    Args:
        local_rank: among those of this machine.
        local_size: how many of them are on this machine.

    Every method raises `LostRankError` where a rank does not answer.
    """

    def __init__(self, local_rank: int, local_size: int) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_size = local_rank, local_size

    def sum(self, x: Tensor) -> Tensor:
        with _in_touch():
            dist.all_reduce(x)
        return x

    def differentiable_sum(self, x: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(x, self)  # type: ignore[no-untyped-call]
        return total

    def gather(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        x = x.detach()
        if sizes is not None:
            padding = x.new_zeros((max(sizes) - len(x), *x.shape[1:]))
            x = torch.cat([x, padding])
        rows = x.new_empty((self.size * len(x), *x.shape[1:]))
        with _in_touch():
            dist.all_gather_single(rows, x.contiguous())
        if sizes is None:
            return rows
        parts = rows.chunk(self.size) if len(x) else [rows] * self.size
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def own(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        return x.chunk(self.size)[self.rank] if sizes is None else torch.split(x, list(sizes))[self.rank]

    def sizes(self, own: int) -> list[int]:
        return [int(size) for size in self.gather(torch.tensor([own]))]

    def everyones(self, thing: _T) -> list[_T]:
        things: list[Any] = [None] * self.size
        with _in_touch():
            dist.all_gather_object(things, thing)
        return things

    def from_first(self, thing: _T) -> _T:
        held = [thing]
        with _in_touch():
            dist.broadcast_object_list(held, src=0)
        return held[0]

    def copy_from_first(self, x: Tensor) -> None:
        whole = x.contiguous()
        with _in_touch():
            dist.broadcast(whole, src=0)
        if whole is not x:
            x.copy_(whole)


class _Sum(torch.autograd.Function):
    """The sum over ranks; what each loss says of it is summed over them too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return ctx.ranks.sum(gradient.clone()), None


@contextlib.contextmanager
def _in_touch() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has no narrower type for a connection that breaks
        raise LostRankError(f"contact with another rank was lost: {first_line(error)}") from error
