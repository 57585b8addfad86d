"""The functions that may fill each slot of a recipe, by name; `registration.register` adds to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from rlkit_es.core import constraints, masks, stops, surrogates

NO_CONSTRAINT = "none"


def _by_name(*functions: Callable[..., Tensor]) -> dict[str, Callable[..., Tensor]]:
    return {function.__name__: function for function in functions}


SURROGATES = _by_name(surrogates.ratio, surrogates.ratio_minus_one, surrogates.clip, surrogates.spo)
MASKS = _by_name(
    masks.keep_all,
    masks.ratio_within,
    masks.ratio_below,
    masks.ratio_above,
    masks.ratio_log_symmetric,
    masks.kl_below,
    masks.kl_within,
)
STOPS = _by_name(stops.never, stops.ratio_deviation, stops.mean_kl)
CONSTRAINTS = _by_name(constraints.ratio_variance, constraints.kl)
SLOTS: Mapping[str, dict[str, Callable[..., Tensor]]] = {
    "surrogate": SURROGATES,
    "mask": MASKS,
    "stop": STOPS,
    "constraint": CONSTRAINTS,
}

BUILT_IN: Mapping[str, frozenset[str]] = {
    slot: frozenset({*table, NO_CONSTRAINT}) for slot, table in SLOTS.items()
}
"""What comes with the library: `SLOTS` before anything is registered."""

# What the first arguments of each are given; the others are hyperparameters.
DATA: Mapping[str, tuple[str, ...]] = {
    "surrogate": ("stats", "advantage"),
    "mask": ("stats", "advantage"),
    "stop": ("stats", "valid"),
    "constraint": ("stats",),
}


def names(slot: str) -> list[str]:
    """What the configuration may say for ``slot``."""
    return [*([NO_CONSTRAINT] if slot == "constraint" else []), *SLOTS[slot]]
