from __future__ import annotations

import gymnasium as gym
import pytest

from rlkit_es.envs.envpool_backend import envpool_ids
from rlkit_es.envs.ids import envpool_id, is_atari, is_dm_control

ATARI = ["ALE/Pong-v5", "ALE/MsPacman-v5", "ALE/TicTacToe3D-v5"]
DM_CONTROL = ["dm_control/cheetah-run-v0", "dm_control/humanoid_CMU-stand-v0", "dm_control/RodentTwoTouch-v0"]
OTHERS = [
    "CartPole-v1",
    "HalfCheetah-v4",
    "Pong-v5",
    "PongNoFrameskip-v4",
    "CheetahRun-v1",
    "toy_envs:ToyWalk-v0",
    "module:ALE/Pong-v5",
    "ALE/",  # of Atari, as far as it is anything
    "ALE/Pong-v99",
    "",
]


@pytest.mark.parametrize("env_id", [*ATARI, *DM_CONTROL, *OTHERS])
def test_an_id_is_of_one_suite_at_most(env_id: str) -> None:
    assert is_atari(env_id) == env_id.startswith("ALE/")
    assert is_dm_control(env_id) == (env_id in DM_CONTROL)


@pytest.mark.parametrize("env_id", OTHERS)
def test_other_ids_are_envpools_own(env_id: str) -> None:
    assert envpool_id(env_id) == env_id


@pytest.mark.parametrize(
    ("env_id", "own"),
    [
        ("ALE/Pong-v5", "Pong-v5"),
        ("ALE/MsPacman-v5", "MsPacman-v5"),
        ("dm_control/cheetah-run-v0", "CheetahRun-v1"),
        ("dm_control/ball_in_cup-catch-v0", "BallInCupCatch-v1"),
        ("dm_control/humanoid_CMU-run-v0", "HumanoidCMURun-v1"),
        ("dm_control/dog-fetch-v0", "DogFetch-v1"),
        ("dm_control/lqr-lqr_2_1-v0", "LqrLqr21-v1"),
    ],
)
def test_envpools_own_name(env_id: str, own: str) -> None:
    assert envpool_id(env_id) == own


def test_every_task_of_the_control_suite_is_one_that_envpool_has() -> None:
    pytest.importorskip("envpool")
    configs = pytest.importorskip("shimmy.utils.envs_configs")
    ids = [f"dm_control/{domain}-{task}-v0" for domain, task in configs.DM_CONTROL_SUITE_ENVS]
    names = [envpool_id(env_id) for env_id in ids]
    assert set(names) <= set(envpool_ids())
    assert len(set(names)) == len(ids) >= 50


def test_every_game_is_one_that_envpool_has() -> None:
    pytest.importorskip("envpool")
    gym.register_envs(pytest.importorskip("ale_py"))
    games = [env_id for env_id in gym.registry if is_atari(env_id)]
    names = [envpool_id(env_id) for env_id in games]
    assert [name for name in names if name not in set(envpool_ids())] == []
    assert len(set(names)) == len(games) >= 100
