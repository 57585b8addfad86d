"""Who takes part in peers.py: implementations of on-policy learning, each with settings of its own."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from contenders.race import Race, Watch


@dataclass(frozen=True)
class Contender:
    """One implementation with one choice of settings."""

    label: str
    function: str  # "module:name" of a function that trains; its module imports the library
    needs: tuple[str, ...] = ()  # packages that our own installation does not bring

    @property
    def ours(self) -> bool:
        """Whether it is this library."""
        return self.function.startswith("contenders.ours:")

    def load(self) -> Callable[[Race, Watch], None]:
        """The function that trains until the watch says that the race is over; imports what it needs."""
        module, name = self.function.split(":")
        train: Callable[[Race, Watch], None] = getattr(importlib.import_module(module), name)
        return train


_SB3 = ("stable_baselines3", "sb3_contrib")
_TIANSHOU = ("tianshou",)

CONTENDERS: dict[str, Contender] = {
    "ppo": Contender("rlkit_es ppo", "contenders.ours:ppo"),
    "ppo-equal": Contender("rlkit_es ppo (equal)", "contenders.ours:equal_ppo"),
    "trpo": Contender("rlkit_es trpo", "contenders.ours:trpo"),
    "trpo-equal": Contender("rlkit_es trpo (equal)", "contenders.ours:equal_trpo"),
    "sb3-ppo-zoo": Contender("sb3-ppo (zoo)", "contenders.sb3:zoo_ppo", _SB3),
    "sb3-ppo-equal": Contender("sb3-ppo (equal)", "contenders.sb3:equal_ppo", _SB3),
    "sb3-trpo-zoo": Contender("sb3-trpo (zoo)", "contenders.sb3:zoo_trpo", _SB3),
    "sb3-trpo-equal": Contender("sb3-trpo (equal)", "contenders.sb3:equal_trpo", _SB3),
    "tianshou-ppo-example": Contender(
        "tianshou-ppo (example)", "contenders.tianshou_:example_ppo", _TIANSHOU
    ),
    "tianshou-ppo-equal": Contender("tianshou-ppo (equal)", "contenders.tianshou_:equal_ppo", _TIANSHOU),
    "cleanrl-ppo": Contender("cleanrl-style ppo", "contenders.cleanrl_style:ppo"),
}


def missing_packages(contenders: Iterable[Contender]) -> list[str]:
    """What has to be installed for them, without repetition."""
    needed = dict.fromkeys(package for contender in contenders for package in contender.needs)
    return [package for package in needed if importlib.util.find_spec(package) is None]
