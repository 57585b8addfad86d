"""Settings that were given and have nothing to act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlkit_es.errors import UserError
from rlkit_es.learners.unread import refuse_unread

if TYPE_CHECKING:
    from rlkit_es.training.config import Config

_BOUNDS_OF = {"reward_clip": "normalize_rewards", "observation_clip": "normalize_observations"}


def refuse_idle(config: Config, usual: Mapping[str, Any]) -> None:
    """What is otherwise than usual has an effect, as far as the settings alone can tell.

    Args:
        config: the settings.
        usual: what they would be if nobody had said anything; left out: as `Config` has it.

    Raises:
        UserError: something has none; the message says what it is for.
    """
    refuse_unread(config.algo, config, usual)

    def given(name: str) -> bool:
        return bool(getattr(config, name) != usual.get(name, getattr(type(config), name)))

    for name, normalizing in _BOUNDS_OF.items():
        if given(name) and not getattr(config, normalizing):
            raise UserError(f"{name} bounds what {normalizing} scales, which is off: leave one of them out")
    if given("horizon_growth") and config.horizon_growth != 1 and config.gamma == 1:
        raise UserError(
            "horizon_growth has no effect with a gamma of 1, whose horizon is endless: leave it out"
        )


def refuse_unrecorded(config: Config) -> None:
    """What is recorded beside a run directory has one: of an agent, for which none is made.

    Raises:
        UserError: it has none.
    """
    if config.wandb is not None and config.run_dir is None:
        raise UserError("wandb is given the run of a run directory: set run_dir too")
