from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import pytest
import torch
import toy_envs  # registers its ids

from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv, make_gymnasium
from rlkit_es.envs.registry import choose_backend, make_vector_envs, usable_cores
from rlkit_es.errors import UserError


@pytest.fixture
def without_envpool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)


def test_auto_takes_envpool_where_it_has_the_id() -> None:
    pytest.importorskip("envpool")
    backend, reason = choose_backend("HalfCheetah-v4", "auto")
    assert backend == "envpool"
    assert "EnvPool" in reason


def test_auto_takes_gymnasium_where_envpool_lacks_the_id() -> None:
    pytest.importorskip("envpool")
    backend, reason = choose_backend("ToyWalk-v0", "auto")
    assert backend == "gymnasium"
    assert "EnvPool" in reason


def test_one_environment_alone_stays_in_this_process() -> None:
    pytest.importorskip("envpool")
    assert choose_backend("HalfCheetah-v4", "auto", num_envs=1)[0] == "gymnasium"
    assert choose_backend("HalfCheetah-v4", "auto", num_envs=2)[0] == "envpool"
    assert choose_backend("HalfCheetah-v4", "envpool", num_envs=1)[0] == "envpool"
    assert choose_backend("HumanoidRun-v1", "auto", num_envs=1)[0] == "envpool"  # only EnvPool has it


@pytest.mark.usefixtures("nothing_stays_registered")
@pytest.mark.parametrize("env_id", ["Catch-v0", "Pendulum-v1", "HalfCheetah-v4"])
@pytest.mark.parametrize("num_envs", [1, 2])
def test_what_somebody_else_registered_is_theirs_whatever_envpool_has(env_id: str, num_envs: int) -> None:
    pytest.importorskip("envpool")
    assert choose_backend(env_id, "auto", num_envs=2)[0] == "envpool"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one is overridden
        gym.register(env_id, "toy_envs:Walk", disable_env_checker=True)
    assert choose_backend(env_id, "auto", num_envs)[0] == "gymnasium"
    (envs,) = make_vector_envs(env_id, num_envs, backend="auto")
    assert envs.reset(range(num_envs)).shape == (num_envs, *toy_envs.Walk.observation_space.shape)
    envs.close()
    assert choose_backend(env_id, "envpool", num_envs)[0] == "envpool"  # as asked


@pytest.mark.usefixtures("nothing_stays_registered")
def test_a_package_whose_environments_envpool_has_too_changes_nothing() -> None:
    pytest.importorskip("envpool")
    gym.register("FetchReach-v4", "gymnasium_robotics.envs.fetch.reach:MujocoFetchReachEnv")
    assert choose_backend("FetchReach-v4", "auto", num_envs=2)[0] == "envpool"


@pytest.mark.parametrize("env_id", ["HalfCheetah-v3", "Pusher-v4"])
def test_one_environment_alone_is_not_left_to_a_gymnasium_that_cannot_serve_it(env_id: str) -> None:
    pytest.importorskip("envpool")
    assert {choose_backend(env_id, "auto", num_envs=count)[0] for count in (1, 2)} == {"envpool"}


def test_auto_without_envpool_takes_gymnasium_and_says_what_to_install(without_envpool: None) -> None:
    backend, reason = choose_backend("HalfCheetah-v4", "auto")
    assert backend == "gymnasium"
    assert "pip install 'rlkit_es[envpool]'" in reason
    (envs,) = make_vector_envs("HalfCheetah-v4", 1, backend="auto")
    assert envs.reset([0]).shape == (1, 17)
    envs.close()


def test_asking_for_envpool_without_it_says_what_to_install(without_envpool: None) -> None:
    with pytest.raises(UserError, match=r"pip install 'rlkit_es\[envpool\]'"):
        choose_backend("HalfCheetah-v4", "envpool")


def test_an_envpool_that_cannot_be_imported_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "envpool").mkdir()
    (tmp_path / "envpool" / "__init__.py").write_text("raise ImportError('GLIBC_9_99 not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "envpool", raising=False)
    assert choose_backend("HalfCheetah-v4", "auto")[0] == "gymnasium"
    with pytest.raises(UserError, match="GLIBC_9_99"):
        choose_backend("HalfCheetah-v4", "envpool")


@pytest.mark.parametrize("backend", ["gymnasium", "gymnasium-async"])
def test_what_was_asked_for_is_what_is_chosen(backend: str) -> None:
    assert choose_backend("CartPole-v1", backend) == (backend, "as asked")


@pytest.mark.parametrize("backend", ["auto", "gymnasium", "gymnasium-async"])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("HalfCheeta-v4", "HalfCheetah-v4"),
        ("cartpole-v1", "CartPole-v1"),
        ("toy_envs:ToyWlak-v0", "ToyWalk-v0"),
    ],
)
def test_an_unknown_id_names_the_closest(wrong: str, right: str, backend: str) -> None:
    with pytest.raises(UserError, match="unknown environment") as refused:
        choose_backend(wrong, backend)
    assert repr(wrong) in str(refused.value)
    assert right in str(refused.value)


@pytest.mark.parametrize("name", ["Pong-v5", "Pong-v4", "PongNoFrameskip-v4", "PongDeterministic-v0"])
@pytest.mark.parametrize("backend", ["auto", "envpool", "gymnasium"])
def test_a_game_by_another_name_is_told_its_name_here(name: str, backend: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' is called ALE/Pong-v5 here") as refused:
        choose_backend(name, backend)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("ale_py:ALE/Pong-v5", "ALE/Pong-v5"),
        ("shimmy:dm_control/cheetah-run-v0", "dm_control/cheetah-run-v0"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "gymnasium"])
def test_a_suite_of_its_own_protocol_is_named_without_a_module(env_id: str, name: str, backend: str) -> None:
    with pytest.raises(UserError, match=f"^the environment '{env_id}' is called {name} here"):
        choose_backend(env_id, backend)


@pytest.mark.parametrize("other", ["TicTacToe3d-v5", "TicTacToe3D-v4"])
def test_a_game_that_envpool_spells_otherwise(other: str) -> None:
    with pytest.raises(UserError, match="is called ALE/TicTacToe3D-v5 here"):
        choose_backend(other, "auto")


def test_an_environment_of_ones_own_may_have_the_name_of_a_game() -> None:
    gym.registry.pop("Tennis-v0", None)
    gym.register("Tennis-v0", entry_point="toy_envs:Walk")
    try:
        assert choose_backend("Tennis-v0", "auto")[0] == "gymnasium"
    finally:
        del gym.registry["Tennis-v0"]


@pytest.mark.filterwarnings("ignore:.*latest versioned.*")
def test_the_version_may_be_left_out_as_in_gymnasium() -> None:
    with gym.make("HalfCheetah") as newest:
        assert newest.spec is not None
    (envs,) = make_vector_envs("HalfCheetah", 1, backend="gymnasium")
    assert envs.reset([0]).shape == (1, 17)
    envs.close()


@pytest.mark.parametrize("env_id", ["", "nothing like any id", "ALE/NoSuchGame-v5"])
def test_hopeless_ids_are_refused_in_one_line(env_id: str) -> None:
    with pytest.raises(UserError) as refused:
        choose_backend(env_id, "auto")
    assert "\n" not in str(refused.value)


def test_envpool_for_an_id_that_it_lacks_names_the_closest() -> None:
    pytest.importorskip("envpool")
    with pytest.raises(UserError, match=r"EnvPool does not have 'HalfCheeta-v4'.*HalfCheetah-v4"):
        choose_backend("HalfCheeta-v4", "envpool")
    with pytest.raises(UserError, match="EnvPool does not have 'ToyWalk-v0'"):
        make_vector_envs("ToyWalk-v0", 1, backend="envpool")


def test_module_and_id() -> None:
    assert choose_backend("toy_envs:ToyWalk-v0", "auto")[0] == "gymnasium"
    (envs,) = make_vector_envs("toy_envs:ToyWalk-v0", 2, backend="auto")
    assert envs.reset([0, 1]).shape == (2, 3)
    envs.close()


@pytest.mark.parametrize("env_id", ["no_such_module:Walk-v0", ":CartPole-v1", ".relative:Walk-v0"])
def test_a_module_that_cannot_be_imported(env_id: str) -> None:
    with pytest.raises(UserError, match="cannot import") as refused:
        choose_backend(env_id, "auto")
    assert repr(env_id) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_module_that_needs_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_envs.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"needy_envs.*no_such_package") as refused:
        choose_backend("needy_envs:Walk-v0", "auto")
    assert "\n" not in str(refused.value)


def test_a_registered_environment_that_cannot_be_made() -> None:
    with pytest.raises(UserError, match="cannot make 'HalfCheetah-v3'") as refused:
        make_vector_envs("HalfCheetah-v3", 1, backend="gymnasium")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("num_envs", "groups", "sizes"),
    [(5, 1, [5]), (5, 2, [3, 2]), (6, 3, [2, 2, 2]), (2, 4, [1, 1]), (1, 2, [1])],
)
def test_groups_share_the_environments_evenly(num_envs: int, groups: int, sizes: list[int]) -> None:
    pytest.importorskip("envpool")
    made = make_vector_envs("CartPole-v1", num_envs, backend="envpool", groups=groups)
    assert sorted((envs.num_envs for envs in made), reverse=True) == sizes


def test_one_process_is_one_group() -> None:
    assert len(make_vector_envs("CartPole-v1", 4, backend="gymnasium", groups=2)) == 1


def test_cores_are_those_that_a_scheduler_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()


def test_environments_are_numbered_over_all_groups() -> None:
    groups = make_vector_envs("ToyWalk-v0", 2, backend="gymnasium-async", groups=2)
    for number, group in enumerate(groups):
        assert isinstance(group, GymnasiumVectorEnv)
        group.env.processes[0].kill()
        with pytest.raises(UserError, match=rf"processes have died: {number} \(exit code -9\)"):
            group.reset([0])
        group.close()


def test_what_an_environment_raises_has_its_number() -> None:
    envs = make_gymnasium("ToyWalk-v0", 2, asynchronous=False, first=4)
    envs.reset([0, 1])
    envs.send(torch.tensor([[0.0], [2.0]]))  # out of bounds
    with pytest.raises(UserError, match=r"^environment 5 raised AssertionError"):
        envs.recv()


def test_what_envpool_shows_otherwise_is_stepped_by_gymnasium() -> None:
    assert choose_backend("Blackjack-v1", "auto", num_envs=4)[0] == "gymnasium"


def test_what_envpool_alone_has_is_said() -> None:
    pytest.importorskip("envpool")
    with pytest.raises(UserError, match=r"^'CheetahRun-v1' is EnvPool's: use --backend envpool$"):
        choose_backend("CheetahRun-v1", "gymnasium")
