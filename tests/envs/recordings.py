"""A recording as a GPU makes it, of what runs on the CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

WARM_UP = 3


def as_a_gpu_would(run: Callable[[], Any]) -> Callable[[], Any]:
    """Warms up, and then writes all results of a replay to the same memory."""
    for _ in range(WARM_UP):
        run()
    results = pytree.tree_map_only(torch.Tensor, torch.clone, run())

    def replay() -> Any:
        for old, new in zip(pytree.tree_leaves(results), pytree.tree_leaves(run()), strict=True):
            if isinstance(old, torch.Tensor):
                old.copy_(new)
        return results

    return replay
