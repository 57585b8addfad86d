"""What an environment id says of itself: which suite it is of, and what EnvPool calls it."""

from __future__ import annotations

import re
from collections.abc import Mapping

LONGEST_GAME = 27_000  # steps of Atari: 108,000 frames

_GAME = re.compile(r"ALE/(\w+)-v5")
_DM_CONTROL = re.compile(r"dm_control/(\w+)-(\w+)-v0")
_SPELT_OTHERWISE = {"TicTacToe3D": "TicTacToe3d"}  # by EnvPool
_SPELT_HERE = {there: here for here, there in _SPELT_OTHERWISE.items()}
_GAME_ELSEWHERE = re.compile(r"(\w+?)(?:NoFrameskip|Deterministic)?-v[045]")

# EnvPool's tasks have the observations of all tasks of their domain, by domain and task; quadruped's even say
# what the task itself hides.
_OF_OTHER_TASKS: Mapping[tuple[str, str], tuple[str, ...]] = {
    **{("dog", task): ("ball_state", "target_position") for task in ("stand", "walk", "trot", "run")},
    ("finger", "spin"): ("dist_to_target", "target_position"),
    ("fish", "upright"): ("target",),
    **{("humanoid", task): ("position",) for task in ("stand", "walk", "run")},
    ("humanoid", "run_pure_state"): (
        *("com_velocity", "extremities", "head_height", "joint_angles", "torso_vertical"),
    ),
    **{
        ("quadruped", task): ("ball_state", "origin", "rangefinder", "target_position")
        for task in ("walk", "run")
    },
    ("quadruped", "escape"): ("ball_state", "target_position"),
    ("quadruped", "fetch"): ("origin", "rangefinder"),
}


def split_module(env_id: str) -> tuple[str, str]:
    """The module that ``module:id`` names, or "", and the id by which it registers the environment."""
    module, _, name = env_id.rpartition(":")
    return module, name


def is_atari(env_id: str) -> bool:
    """Whether it is a game of the Arcade Learning Environment, ``ALE/Pong-v5``."""
    return env_id.startswith("ALE/")


def named_as_elsewhere(env_id: str) -> str | None:
    """What ``env_id`` is called here if it is a game's old name or EnvPool's, which it need not be.

    ``ALE/Pong-v5`` for ``Pong-v5``, ``PongNoFrameskip-v4`` and ``PongDeterministic-v4``.
    """
    game = _GAME_ELSEWHERE.fullmatch(env_id)
    return f"ALE/{_SPELT_HERE.get(game[1], game[1])}-v5" if game else None


def is_dm_control(env_id: str) -> bool:
    """Whether it is one of DM Control as shimmy names them, ``dm_control/cheetah-run-v0``."""
    return env_id.startswith("dm_control/")


def envpool_id(env_id: str) -> str:
    """What EnvPool calls it, if it has it: ``Pong-v5``, ``CheetahRun-v1``; other ids as they are."""
    if game := _GAME.fullmatch(env_id):
        return f"{_SPELT_OTHERWISE.get(game[1], game[1])}-v5"
    if task := _DM_CONTROL.fullmatch(env_id):
        return f"{_camel(task[1])}{_camel(task[2])}-v1"
    return env_id


def leaves_of_other_tasks(env_id: str) -> frozenset[str]:
    """Leaves of EnvPool's observation that DM Control's task of that id does not have."""
    task = _DM_CONTROL.fullmatch(env_id)
    return frozenset(_OF_OTHER_TASKS.get((task[1], task[2]), ())) if task else frozenset()


def _camel(words: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in words.split("_"))
