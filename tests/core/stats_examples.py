"""Random inputs of the slots."""

import torch
from torch import Tensor

from rlkit_es.types import PolicyStats


def random_stats(seed: int, size: int = 500, spread: float = 0.5) -> PolicyStats:
    generator = torch.Generator().manual_seed(seed)
    log_ratio = spread * torch.randn(size, generator=generator, dtype=torch.float64)
    return PolicyStats(log_ratio, 0.05 * torch.rand(size, generator=generator, dtype=torch.float64))


def random_advantage(seed: int, size: int = 500) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def random_mask(seed: int, size: int = 500, keep: float = 0.7) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(2000 + seed)) < keep


def stats_of(log_ratio: Tensor) -> PolicyStats:
    return PolicyStats(log_ratio, torch.zeros_like(log_ratio))
