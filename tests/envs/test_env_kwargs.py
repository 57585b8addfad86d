from __future__ import annotations

import copy
import dataclasses
import enum
import json
import operator
import pickle
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import toy_envs

from rlkit_es.envs.env_kwargs import NO_KWARGS, EnvKwargs, frozen, thawed
from rlkit_es.envs.registry import Backend, choose_backend, make_vector_envs
from rlkit_es.errors import UserError
from rlkit_es.training.config import Config

GIVEN: dict[str, Any] = {
    "g": 5.0,
    "name": "x",
    "on": True,
    "none": None,
    "deep": {"list": [1, [2.5, {"a": []}]]},
}


# What is kept.


def test_every_json_value_comes_back_as_it_was_given() -> None:
    assert thawed(frozen(GIVEN)) == GIVEN
    assert json.loads(json.dumps(frozen(GIVEN))) == GIVEN
    assert thawed(frozen({"range": (0.2, (1, 2))})) == {"range": [0.2, [1, 2]]}
    assert frozen({}) == NO_KWARGS == {}


def test_numbers_of_numpy_become_pythons() -> None:
    kwargs = frozen({"a": np.float64(0.5), "b": [np.int32(3)], "c": np.bool_(True), "d": np.str_("x")})
    assert kwargs == {"a": 0.5, "b": (3,), "c": True, "d": "x"}
    assert [type(value) for value in (kwargs["a"], kwargs["b"][0], kwargs["c"], kwargs["d"])] == [
        *(float, int, bool, str)
    ]


def test_what_was_given_and_what_was_handed_out_may_change_without_effect() -> None:
    given = copy.deepcopy(GIVEN)
    kwargs = frozen(given)
    given["deep"]["list"][1].append(7)
    given["g"] = 9.0
    out = thawed(kwargs)
    out["deep"]["list"][1][1]["a"].append(8)
    assert thawed(kwargs) == GIVEN


@pytest.mark.parametrize(
    "change",
    [
        lambda kwargs: operator.setitem(kwargs, "g", 1),
        lambda kwargs: operator.setitem(kwargs["deep"], "list", 1),
        lambda kwargs: operator.delitem(kwargs, "g"),
        lambda kwargs: operator.ior(kwargs, {"g": 1}),
        lambda kwargs: kwargs.update(g=1),
        lambda kwargs: kwargs.setdefault("h", 1),
        lambda kwargs: kwargs.pop("g"),
        lambda kwargs: kwargs.popitem(),
        lambda kwargs: kwargs.clear(),
    ],
)
def test_nothing_in_it_can_be_changed(change: Callable[[EnvKwargs], object]) -> None:
    kwargs = frozen(GIVEN)
    with pytest.raises(TypeError, match="env_kwargs cannot be changed"):
        change(kwargs)
    assert thawed(kwargs) == GIVEN


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), frozen])
def test_a_copy_is_equal_and_as_fixed(again: Callable[[EnvKwargs], EnvKwargs]) -> None:
    kwargs = frozen(GIVEN)
    copied = again(kwargs)
    assert copied == kwargs
    assert hash(copied) == hash(kwargs)
    assert type(copied) is type(copied["deep"]) is EnvKwargs
    assert hash(frozen({"a": 1, "b": 2})) == hash(frozen({"b": 2.0, "a": True}))


# In a configuration.


def test_a_configuration_holds_them_fixed() -> None:
    given = {"lengths": [3, 4]}
    config = Config.for_algorithm("ppo", env="Pendulum-v1", env_kwargs=given)
    given["lengths"].append(5)
    assert config.env_kwargs == {"lengths": (3, 4)}
    again = dataclasses.replace(config, seed=1)
    assert again.env_kwargs == config.env_kwargs
    assert dataclasses.replace(again, seed=0) == config
    assert hash(dataclasses.replace(again, seed=0)) == hash(config)
    assert dataclasses.replace(config, env_kwargs={}) == Config.for_algorithm("ppo", env="Pendulum-v1")
    assert Config(**pickle.loads(pickle.dumps(dataclasses.asdict(config)))) == config
    through_json = json.loads(json.dumps(dataclasses.asdict(config)))
    assert through_json["env_kwargs"] == {"lengths": [3, 4]}
    sizes = tuple(through_json["hidden_sizes"])
    assert Config(**{**through_json, "hidden_sizes": sizes}) == config


class Colour(enum.StrEnum):
    RED = "red"


ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"g": float("nan")}, r"^env_kwargs\['g'\] must be .* got nan"),
        ({"g": float("-inf")}, r"^env_kwargs\['g'\] must be .* got -inf"),
        ({"g": np.float64("inf")}, r"^env_kwargs\['g'\] must be .* got inf"),
        ({"g": 10**400}, r"^env_kwargs\['g'\] must be .* got a value of type int"),
        ({"a": {"b": [1, {2, 3}]}}, r"^env_kwargs\['a'\]\['b'\]\[1\] must be .* got a value of type set"),
        ({"a": np.zeros((2, 2))}, r"^env_kwargs\['a'\] must be .* got a value of type ndarray"),
        ({"a": b"x"}, r"^env_kwargs\['a'\] must be .* got a value of type bytes"),
        ({"a": Colour.RED}, r"^env_kwargs\['a'\] must be .* got a value of type Colour"),
        ({"a": 1j}, r"^env_kwargs\['a'\] must be .* got a value of type complex"),
        ({"a": toy_envs.Walk}, r"^env_kwargs\['a'\] must be .* register an id"),
        ({3: 4}, r"^the names in env_kwargs must be strings, got 3$"),
        ({"a": {None: 4}}, r"^the names in env_kwargs\['a'\] must be strings, got None$"),
        ({"a": ITSELF}, "nested more than 20 deep"),
        ({"render_mode": "human"}, "^env_kwargs may not have render_mode.*record and play.*leave it out$"),
    ],
)
def test_what_json_does_not_have_is_refused_by_name(value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        Config.for_algorithm("ppo", env="Pendulum-v1", env_kwargs=value)
    assert "\n" not in str(refused.value)


def test_atari_has_settings_of_its_own() -> None:
    with pytest.raises(
        UserError, match=r"^env_kwargs are not for Atari.*sticky_actions.*leave out frameskip$"
    ):
        Config.for_algorithm("ppo", env="ALE/Pong-v5", env_kwargs={"frameskip": 2})
    assert Config.for_algorithm("ppo", env="ALE/Pong-v5", env_kwargs={}).env_kwargs == {}


# Environments of them.


def walk(backend: Backend, env_id: str, env_kwargs: dict[str, Any], steps: int = 30) -> torch.Tensor:
    """(steps, 2, O + 1) observations and rewards of two environments that are never pushed."""
    (envs,) = make_vector_envs(env_id, 2, backend=backend, env_kwargs=frozen(env_kwargs))
    envs.reset([1, 2])
    seen = []
    for _ in range(steps):
        envs.send(torch.zeros(2, envs.action.size))
        step = envs.recv()
        seen.append(torch.cat([step.observation, step.reward[:, None]], dim=1))
    envs.close()
    return torch.stack(seen)


@pytest.mark.parametrize("backend", ["gymnasium", "gymnasium-async"])
def test_every_gymnasium_environment_is_made_with_them(backend: Backend) -> None:
    expected = []
    for seed in (1, 2):
        env = gym.make("Pendulum-v1", g=5.0)
        env.reset(seed=seed)
        steps = [env.step(np.zeros(1, np.float32)) for _ in range(30)]
        expected.append(torch.tensor([[*observation, reward] for observation, reward, *_ in steps]))
    light = walk(backend, "Pendulum-v1", {"g": 5.0})
    torch.testing.assert_close(light, torch.stack(expected, dim=1).float())
    assert not torch.allclose(light, walk("gymnasium", "Pendulum-v1", {}), atol=0.1)


class Keeps(toy_envs.Walk):
    """Changes the list that it is given."""

    seen: tuple[Any, ...] = ()

    def __init__(self, lengths: list[int]) -> None:
        Keeps.seen = (*Keeps.seen, (type(lengths), list(lengths)))
        lengths.append(99)
        super().__init__(lengths)


@pytest.mark.usefixtures("nothing_stays_registered")
def test_each_environment_gets_lists_of_its_own() -> None:
    gym.register("ToyKeeps-v0", Keeps, disable_env_checker=True)
    kwargs = frozen({"lengths": (4, 5)})
    (envs,) = make_vector_envs("ToyKeeps-v0", 2, backend="gymnasium", env_kwargs=kwargs)
    for _ in range(2):
        envs.reset([0, 1])  # the second time they are made anew
    envs.close()
    assert len(Keeps.seen) >= 4
    assert set(map(str, Keeps.seen)) == {str((list, [4, 5]))}


@pytest.mark.parametrize("backend", ["gymnasium", "gymnasium-async"])
@pytest.mark.parametrize(
    ("env_kwargs", "said"),
    [
        ({"gravity": 5}, "'gravity'"),
        ({"id": "CartPole-v1"}, "'id'"),
        ({"max_episode_steps": "x"}, "max_episode_steps"),
    ],
)
def test_an_argument_that_the_constructor_does_not_take_is_one_line(
    backend: Backend, env_kwargs: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=f"^cannot make 'Pendulum-v1': .*{said}") as refused:
        make_vector_envs("Pendulum-v1", 2, backend=backend, env_kwargs=frozen(env_kwargs))
    assert "\n" not in str(refused.value)


def test_gymnasiums_own_argument_of_how_long_an_episode_is() -> None:
    (envs,) = make_vector_envs(
        "Pendulum-v1", 1, backend="gymnasium", env_kwargs=frozen({"max_episode_steps": 2})
    )
    envs.reset([0])
    ended = []
    for _ in range(2):
        envs.send(torch.zeros(1, 1))
        ended.append(bool(envs.recv().truncated))
    envs.close()
    assert ended == [False, True]


def test_envpool_gets_them_by_its_own_names() -> None:
    pytest.importorskip("envpool")
    free, usual = (walk("envpool", "HalfCheetah-v4", kwargs) for kwargs in ({"reset_noise_scale": 0.0}, {}))
    assert torch.equal(free[:, 0], free[:, 1])
    assert not torch.equal(usual[:, 0], usual[:, 1])


@pytest.mark.parametrize(
    ("env_kwargs", "said"),
    [
        ({"g": 5.0}, r"^EnvPool's Pendulum-v1 has no argument 'g'; there is max_episode_steps$"),
        ({"max_episode_step": 5}, r"no argument 'max_episode_step'; did you mean max_episode_steps\?$"),
        ({"max_episode_steps": "x"}, r"other kinds: by default they are \{'max_episode_steps': 200\}$"),
        ({"num_envs": 3}, "no argument 'num_envs'"),
        ({"seed": 3}, "no argument 'seed'"),
        ({"batch_size": 1}, "no argument 'batch_size'"),
        ({"from_pixels": True}, "no argument 'from_pixels'"),
    ],
)
def test_what_envpool_does_not_take_is_one_line(env_kwargs: dict[str, Any], said: str) -> None:
    pytest.importorskip("envpool")
    with pytest.raises(UserError, match=said) as refused:
        make_vector_envs("Pendulum-v1", 2, backend="envpool", env_kwargs=frozen(env_kwargs))
    assert "\n" not in str(refused.value)


def test_a_value_that_envpool_cannot_use_is_one_line() -> None:
    pytest.importorskip("envpool")
    kwargs = frozen({"xml_file": "nowhere.xml"})
    (envs,) = make_vector_envs("Ant-v4", 2, backend="envpool", env_kwargs=kwargs)
    with pytest.raises(UserError, match=r"^cannot make 'Ant-v4': [^\n]*nowhere\.xml[^\n]*$"):
        envs.reset([0, 1])
    envs.close()


# Which backend.


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "HalfCheetah-v4", "toy_envs:ToyWalk-v0"])
def test_auto_takes_gymnasium_for_them_and_says_why(env_id: str) -> None:
    backend, reason = choose_backend(env_id, "auto", 8, frozen({"g": 5.0}))
    assert backend == "gymnasium"
    assert "env_kwargs" in reason
    assert "env_kwargs" not in choose_backend(env_id, "auto", 8)[1]


def test_what_only_envpool_has_stays_with_it() -> None:
    pytest.importorskip("envpool")
    assert choose_backend("HumanoidRun-v1", "auto", 8, frozen({"frame_skip": 1}))[0] == "envpool"


def test_without_envpool_nobody_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    assert "pip" not in choose_backend("Pendulum-v1", "auto", 8, frozen({"g": 5.0}))[1]


@pytest.mark.parametrize("backend", ["envpool", "gymnasium", "gymnasium-async"])
def test_what_is_asked_for_stays(backend: Backend) -> None:
    pytest.importorskip("envpool")
    assert choose_backend("Pendulum-v1", backend, 8, frozen({"g": 5.0})) == (backend, "as asked")


def test_an_unknown_id_is_refused_with_them_as_without() -> None:
    with pytest.raises(UserError, match="unknown environment 'Pendulun-v1'; did you mean Pendulum-v1"):
        choose_backend("Pendulun-v1", "auto", 8, frozen({"g": 5.0}))
