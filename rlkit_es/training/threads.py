"""Threads of torch, for large operations and for small ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """``number`` of them; what is set in between does not outlast it either."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def kept_threads() -> contextlib.AbstractContextManager[None]:
    """As many as now, and so again in the end, whatever is set in between."""
    return threads(torch.get_num_threads())


def acting_threads() -> contextlib.AbstractContextManager[None]:
    """Half as many threads as now: the other cores step environments, and rows to act on are few."""
    return threads(max(1, torch.get_num_threads() // 2))
