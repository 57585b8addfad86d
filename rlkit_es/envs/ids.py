"""What an environment id says of itself: which suite it is of, and what EnvPool calls it."""

from __future__ import annotations

import re

_ATARI = re.compile(r"ALE/(\w+)-v\d+")
_DM_CONTROL = re.compile(r"dm_control/(\w+)-(\w+)-v0")


def is_atari(env_id: str) -> bool:
    """Whether it is a game of the Arcade Learning Environment, ``ALE/Pong-v5``."""
    return _ATARI.fullmatch(env_id) is not None


def is_dm_control(env_id: str) -> bool:
    """Whether it is one of DM Control as shimmy names them, ``dm_control/cheetah-run-v0``."""
    return env_id.startswith("dm_control/")


def envpool_id(env_id: str) -> str:
    """What EnvPool calls it, if it has it: ``Pong-v5``, ``CheetahRun-v1``; other ids as they are."""
    if game := _ATARI.fullmatch(env_id):
        return f"{game[1]}-v5"
    if task := _DM_CONTROL.fullmatch(env_id):
        return f"{_camel(task[1])}{_camel(task[2])}-v1"
    return env_id


def _camel(words: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in words.split("_"))
