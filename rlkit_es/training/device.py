"""Which device a run uses."""

from __future__ import annotations

import torch

from rlkit_es.errors import UserError, first_line


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the CPU, the faster one for small networks.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device {name!r} cannot be used here: {first_line(error)}; use --device cpu"
        ) from error
    return device
