"""Functions of the user's own, tried on a few samples before anything is trained with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlkit_es.errors import UserError, line_and_type
from rlkit_es.learners.recipes import Slots
from rlkit_es.learners.slots import BUILT_IN, DATA
from rlkit_es.models.building import described
from rlkit_es.types import PolicyStats


class _Wanted(NamedTuple):
    """What the functions of a slot return."""

    each: bool  # (M,); else ()
    floating: bool  # else bool
    meaning: str
    learned_from: bool = False  # by its gradient

    @property
    def in_words(self) -> str:
        shape, kind = "(M,)" if self.each else "()", "floating point" if self.floating else "bool"
        return f"a tensor {shape} {kind}, {self.meaning}"

    def fits(self, result: Any, samples: int) -> bool:
        if not isinstance(result, Tensor) or result.shape != ((samples,) if self.each else ()):
            return False
        return result.is_floating_point() if self.floating else result.dtype == torch.bool


_VALUES = _Wanted(
    each=True,
    floating=True,
    meaning="a value of each sample, whose mean is taken afterwards",
    learned_from=True,
)
_WANTED: Mapping[str, _Wanted] = {
    "surrogate": _VALUES,
    "constraint": _VALUES,
    "mask": _Wanted(each=True, floating=False, meaning="whether to keep each sample"),
    "stop": _Wanted(each=False, floating=False, meaning="one for all samples, which stays on their device"),
}


def check_slots(slots: Slots, filled: Mapping[str, str], samples: int, like: Tensor) -> None:
    """The user's own functions return what their slots take, with a gradient where there must be one.

    What has another shape may broadcast, and learning then goes wrong in silence: the mean of a surrogate
    (), say, counts samples that are not valid or that the mask drops.

    Args:
        slots: bound to their settings.
        filled: the name of what fills each.
        samples: M, as many as a minibatch has, since a function may pick the best ten of them, say.
        like: of the device and type that the samples will have.

    Raises:
        UserError: one returns something else, has no gradient, or fails; the message names it and says what
            it must return.
    """
    for slot, name in filled.items():
        if name not in BUILT_IN[slot]:
            _check(slot, name, getattr(slots, slot), samples, like)


def _check(slot: str, name: str, function: Callable[..., Any], samples: int, like: Tensor) -> None:
    wanted = _WANTED[slot]
    example = _example(samples, like, wanted.learned_from)
    try:
        # A function that draws from torch's global generator leaves it as it was.
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            result = function(*(example[argument] for argument in DATA[slot]))
    except Exception as error:
        raise UserError(
            f"{slot} {name} fails on {samples} samples, of which it must return {wanted.in_words}: "
            f"{line_and_type(error)}"
        ) from error
    if not wanted.fits(result, samples):
        raise UserError(
            f"{slot} {name} returned {described(result)} for M = {samples}: it must return {wanted.in_words}"
        )
    if wanted.learned_from and not result.requires_grad:
        raise UserError(
            f"{slot} {name} has no gradient with respect to stats, so nothing is learned from it: compute it "
            "from stats.ratio, stats.log_ratio or stats.kl, without detaching them"
        )


def _example(samples: int, like: Tensor, gradients: bool) -> dict[str, Any]:
    """What slots are given, by name, where the policy has moved a little; its stats may need gradients."""
    advantage = torch.linspace(-1, 1, samples, dtype=like.dtype, device=like.device)
    log_ratio = 0.1 * advantage
    kl = 0.5 * log_ratio.square()
    return {
        "stats": PolicyStats(*(field.requires_grad_(gradients) for field in (log_ratio, kl))),
        "advantage": advantage,
        "valid": torch.ones_like(advantage, dtype=torch.bool),
    }
