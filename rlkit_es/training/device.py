"""Which device a run uses."""

from __future__ import annotations

import torch

from rlkit_es.errors import UserError, first_line
from rlkit_es.ranks import ALONE, Ranks

_KINDS = ("cpu", "cuda", "mps")


def resolve_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device of that name; ``auto`` is the CPU, the faster one for small networks.

    Args:
        name: as of `Config.device`.
        ranks: cuda is a GPU for each of those on this machine.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cpu")
    if name == "cuda" and ranks.size > 1:
        name = f"cuda:{ranks.local_rank}"
    elif name.startswith("cuda:") and ranks.local_size > 1:
        raise UserError(f"device {name} is one GPU, and each rank needs its own: use --device cuda")
    try:
        device = torch.device(name)
        known = device.type in _KINDS
    except RuntimeError:  # whose message lists everything that torch may be built for
        known = False
    if not known:
        raise UserError(f"device {name!r} cannot be used here: use --device cpu, or cuda, cuda:1 or mps")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device {name!r} cannot be used here: {first_line(error)}; use --device cpu"
        ) from error
    if device.type == "cuda" and ranks.size > 1:
        torch.cuda.set_device(device)  # where ranks exchange what is on no device yet
    return device
