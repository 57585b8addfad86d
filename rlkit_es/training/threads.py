"""Threads of torch, for large operations and for small ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def acting_threads() -> Iterator[None]:
    """Half as many threads as now: the other cores step environments, and rows to act on are few."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
