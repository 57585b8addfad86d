"""All parameters of actor and critic in one flat vector.

One vector makes the optimiser a handful of elementwise operations, whatever the network, and the
gradient one thing to clip or to reduce. The modules keep working: their parameters become views.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FlatModule:
    """The parameters of one module, as a slice of a flat vector."""

    def __init__(self, module: nn.Module) -> None:
        named = dict(module.named_parameters())
        self.module = module
        self.names = list(named)
        self.shapes = [p.shape for p in named.values()]
        self.sizes = [p.numel() for p in named.values()]
        self.size = sum(self.sizes)

    def leading(self, name: str) -> int:
        """Size of the parameter called ``name``, of whatever submodule, if it comes first; else 0."""
        return self.sizes[0] if self.names[0].rsplit(".", 1)[-1] == name else 0

    def gather(self) -> Tensor:
        """A copy of the module's parameters, (size,)."""
        return torch.cat([p.detach().flatten() for p in self.module.parameters()])

    def adopt(self, flat: Tensor) -> None:
        """Make the module's parameters views of ``flat`` (size,): what changes there changes here."""
        for parameter, value in zip(self.module.parameters(), self.unflatten(flat).values(), strict=True):
            parameter.requires_grad_(False)
            parameter.data = value

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """``flat`` (size,) as named tensors."""
        pieces = torch.split(flat, self.sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, pieces, self.shapes, strict=True)}

    def __call__(self, flat: Tensor, *inputs: Any) -> Any:
        """The module's output with ``flat`` (size,) for its parameters."""
        return torch.func.functional_call(self.module, self.unflatten(flat), inputs)
