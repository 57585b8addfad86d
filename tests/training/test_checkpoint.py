"""What is taken out of a trainer is all there is to it, and only what is whole goes into one."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import pytest
import torch

from rlkit_es.errors import CheckpointError, NonFiniteError, UserError
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.training.checkpoint import (
    Checkpoint,
    config_of,
    require_imported_environment,
    restored,
    take_checkpoint,
)
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer

SMALL = {
    "num_envs": 2,
    "rollout_steps": 16,
    "minibatch_size": 16,
    "critic_epochs": 2,
    "hidden_sizes": (8,),
    "learning_rate": 3e-3,
    "compile": "off",
    "backend": "gymnasium",
    "seed": 5,
}
SPEED = {"wall_seconds", "steps_per_second"}
ENVS = ["CartPole-v1", "Pendulum-v1"]


def make(algo: str, env: str, **settings: Any) -> Trainer:
    passes = {} if RECIPES[algo].step == "natural" else {"epochs": 2}
    return Trainer(Config.for_algorithm(algo, env=env, **{**SMALL, **passes, **settings}))


@functools.cache
def trained(algo: str, env: str) -> Checkpoint:
    trainer = make(algo, env)
    trainer.train(64)
    trainer.close()
    return take_checkpoint(trainer)


def changed(**state: Any) -> Checkpoint:
    """A whole one with some of its state replaced, through JSON as in a file."""
    base = trained("ppo", "Pendulum-v1")
    return Checkpoint(dict(base.tensors), {**json.loads(json.dumps(base.state)), **state})


def with_settings(**settings: Any) -> Checkpoint:
    return changed(config={**trained("ppo", "Pendulum-v1").state["config"], **settings})


def with_action(**fields: Any) -> Checkpoint:
    return changed(action={**trained("ppo", "Pendulum-v1").state["action"], **fields})


def with_progress(**fields: Any) -> Checkpoint:
    return changed(progress={**trained("ppo", "Pendulum-v1").state["progress"], **fields})


def go_on(checkpoint: Checkpoint) -> Trainer:
    return restored(checkpoint, config_of(checkpoint))


def without_speed(state: Any) -> str:
    """As text, in which NaN equals NaN."""
    kept = json.loads(json.dumps(state))
    kept["metrics"] = {name: float(value) for name, value in kept["metrics"].items()}
    for name in SPEED:
        kept["metrics"].pop(name, None)
        kept["progress"].pop(name, None)
    return json.dumps(kept)


def differing(a: Checkpoint, b: Checkpoint) -> list[str]:
    assert a.tensors.keys() == b.tensors.keys()
    names = [name for name, x in a.tensors.items() if not torch.equal(x, b.tensors[name])]
    return names + ([] if without_speed(a.state) == without_speed(b.state) else ["state"])


every_recipe = pytest.mark.parametrize("algo", RECIPES)
every_env = pytest.mark.parametrize("env", ENVS)


@every_recipe
@every_env
def test_what_is_restored_is_all_that_was_taken(algo: str, env: str) -> None:
    checkpoint = trained(algo, env)
    again = take_checkpoint(go_on(checkpoint))
    assert differing(again, checkpoint) == []
    assert {name: x.dtype for name, x in again.tensors.items()} == {
        name: x.dtype for name, x in checkpoint.tensors.items()
    }


@every_recipe
@every_env
def test_training_goes_on_bitwise_as_if_it_had_not_been_interrupted(algo: str, env: str) -> None:
    never = make(algo, env)
    never.train(64)
    again = go_on(trained(algo, env))
    before = take_checkpoint(again)
    for trainer in (never, again):
        trainer.train(64)
        trainer.close()
    assert differing(take_checkpoint(again), take_checkpoint(never)) == []
    moved = differing(take_checkpoint(again), before)
    assert {"policy.actor.network.weight_0", "policy.critic.network.weight_0", "generator.minibatches"} <= {
        *moved
    }


def test_the_rate_that_is_reported_is_the_one_applied() -> None:
    adaptive = make("ppo_adaptive", "Pendulum-v1")
    adaptive.train(96)
    assert adaptive.metrics["learning_rate"] != adaptive.config.learning_rate
    config = dataclasses.replace(adaptive.config, learning_rate_schedule="constant")
    constant = restored(take_checkpoint(adaptive), config)
    constant.train(32)
    assert constant.metrics["learning_rate"] == config.learning_rate
    adaptive.close()
    constant.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"normalize_observations": False},
        {"normalize_rewards": False},
        {"normalize_observations": False, "normalize_rewards": False, "scale_actions": False},
        {"hidden_sizes": ()},
        {"hidden_sizes": (3, 5, 2)},
        {"hidden_sizes": (3, 5), "critic_hidden_sizes": (7, 2, 4)},
        {"critic_hidden_sizes": ()},
        {"learning_rate_schedule": "adaptive_kl"},
        {"constraint": "kl", "initial_penalty": 3.0},
        {"critic_epochs": None, "stop": "ratio_deviation"},
        {"checkpoint_every": 32},
    ],
    ids=str,
)
def test_with_other_settings_too(settings: dict[str, Any]) -> None:
    never = make("ppo", "Pendulum-v1", **settings)
    never.train(96)
    again = go_on(Checkpoint(**vars(take_checkpoint(never))))
    for trainer in (never, again):
        trainer.train(64)
        trainer.close()
    assert differing(take_checkpoint(again), take_checkpoint(never)) == []


def test_a_checkpoint_is_a_copy() -> None:
    trainer = make("ppo", "CartPole-v1")
    taken = take_checkpoint(trainer)
    kept = {name: x.clone() for name, x in taken.tensors.items()}
    again = go_on(taken)
    for each in (trainer, again):
        each.train(64)
        each.close()
    assert all(torch.equal(x, kept[name]) for name, x in taken.tensors.items())


def test_where_a_run_lies_is_no_part_of_it(tmp_path: Any) -> None:
    trainer = make("ppo", "CartPole-v1", run_dir=tmp_path / "run")
    assert "run_dir" not in take_checkpoint(trainer).state["config"]
    assert str(tmp_path) not in json.dumps(take_checkpoint(trainer).state)
    trainer.close()


@pytest.mark.parametrize(
    "name", ["policy.actor.log_std", "policy.normalizer.mean", "reward_scaler.variance", "learner.exp_avg_sq"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_by_name(name: str, value: float) -> None:
    base = trained("ppo", "Pendulum-v1")
    trainer = go_on(base)
    part, _, inner = name.partition(".")
    owner: Any = getattr(trainer, part)
    tensors = owner.state_tensors() if part == "learner" else owner.state_dict()
    tensors[inner].view(-1)[0] = value
    with pytest.raises(NonFiniteError, match=rf"^iteration 2: {name} is not finite: .*lower learning rate$"):
        take_checkpoint(trainer)


@pytest.mark.parametrize("name", ["hiden_sizes", "", "__class__", "unknown"])
def test_a_setting_that_is_not_known_here_is_refused_by_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"setting {name!r} is not known to this version"):
        config_of(with_settings(**{name: 1}))


def test_a_setting_that_a_file_does_not_have_is_the_default() -> None:
    checkpoint = changed()
    del checkpoint.state["config"]["observation_clip"]
    assert config_of(checkpoint).observation_clip == Config(algo="ppo").observation_clip
    del checkpoint.state["config"]["algo"]
    with pytest.raises(CheckpointError):
        config_of(checkpoint)


HUGE = 10**400
UNUSABLE_SETTINGS: list[dict[str, Any]] = [
    *({"algo": value} for value in ("pppo", None, 3, ["ppo"], {}, "ppo\nx", "../../ppo")),
    *({"env": value} for value in (None, 3, ["CartPole-v1"])),
    {"hidden_sizes": None},
    *(
        {name: value}
        for name in ("hidden_sizes", "critic_hidden_sizes")
        for value in (3, "8", [0], [-1], [8.0], ["8"], [[8]], {"8": 8}, [None])
    ),
    *({"num_envs": value} for value in (0, -1, 1.5, "2", None, True, [2], math.nan)),
    *({"gamma": value} for value in (-0.1, 1.1, math.nan, math.inf, "0.99", None, True, HUGE)),
    *({"activation": value} for value in ("gelu", None, "__import__", ["tanh"], 0)),
    *({"observation_clip": value} for value in (0, -1.0, math.nan, "10", None)),
    *({"scale_actions": value} for value in (0, 1, "yes", None)),
    *({"run_dir": value} for value in ("/tmp/run", "../run", "", 3, ["run"])),
    *({"compile": value} for value in ("yes", None, True)),
    *({"backend": value} for value in ("os", None)),
    *({"seed": value} for value in (-1, 2**63, 0.5, "0", None)),
    {"minibatch_size": 10**9},
    {"torch_threads": -1},
    {"wandb": 3},
]


@pytest.mark.parametrize("settings", UNUSABLE_SETTINGS, ids=lambda s: str(s)[:60])
def test_settings_that_cannot_be_used_are_refused_in_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(
        CheckpointError, match=rf"^[^\n]*{next(iter(settings))}[^\n]*$|^[^\n]{{20,}}$"
    ) as error:
        config_of(with_settings(**settings))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("name", ["config", "observation", "action", "progress", "episodes", "metrics"])
@pytest.mark.parametrize("value", [None, 1.5, "text", [1], [[1, 2]], {"a": {}}, [None] * 3], ids=str)
def test_a_part_of_another_kind_is_refused(name: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        go_on(changed(**{name: value}))


@pytest.mark.parametrize("name", ["config", "observation", "action", "progress", "episodes", "metrics"])
def test_a_part_that_is_missing_is_refused(name: str) -> None:
    checkpoint = changed()
    del checkpoint.state[name]
    with pytest.raises(CheckpointError, match=name):
        go_on(checkpoint)


UNUSABLE_SPACES = [
    *(with_action(size=value) for value in (0, 2, -1, 1.0, "1", True, None, HUGE)),
    *(with_action(discrete=value) for value in (True, 0, 1, None, "no")),
    *(with_action(low=value) for value in ([], [-2], ["-2"], [-2.0, -2.0], [None], [[-2.0]], None, [True])),
    *(with_action(shape=value) for value in ([2], [1, 2], [0], [-1], [1.0], ["1"], [HUGE], None)),
    *(with_action(start=value) for value in (HUGE, None, [], {}, "x", math.nan, math.inf)),
    with_action(more=1),
    *(
        changed(observation=value)
        for value in (
            [0],
            [2],
            [4],
            [-1],
            [3.0],
            "3",
            3,
            [True],
            None,
            [2**31],
            [HUGE],
            [3, 3],
            [4, 84, 84],
            [1, 1, 3],
        )
    ),
]


@pytest.mark.parametrize("checkpoint", UNUSABLE_SPACES, ids=range(len(UNUSABLE_SPACES)))
def test_spaces_that_cannot_be_true_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        go_on(checkpoint)


@pytest.mark.parametrize("start", [1.5, "2", True])
def test_an_action_is_counted_from_a_whole_number(start: Any) -> None:
    base = trained("ppo", "CartPole-v1")
    state = {**base.state, "action": {**base.state["action"], "start": start}}
    with pytest.raises(CheckpointError):
        go_on(Checkpoint(base.tensors, state))


UNUSABLE_PROGRESS = [
    *({"env_steps": value} for value in (-1, 1.5, "64", None, True)),
    *({"wall_seconds": value} for value in (1, "1", None)),
    *({"best_return": value} for value in (1, None, "-Infinity")),
    *({"stage_begin": 65}, {"stage_begin": -1}, {"stage_end": -1}, {"more": 1}),
]


@pytest.mark.parametrize("fields", UNUSABLE_PROGRESS, ids=str)
def test_progress_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        go_on(with_progress(**fields))


@pytest.mark.parametrize(
    "episodes",
    [[[1, 2]], [[1, 2, 3, 4]], [["a", 1, 1]], [[math.nan, 1.0, 1]], [[0, 1.0, math.inf]], [[0, HUGE, 1]]],
)
def test_episodes_that_cannot_be_are_refused(episodes: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        go_on(changed(episodes=episodes))


@pytest.mark.parametrize("name", trained("r2vpo", "Pendulum-v1").tensors)
def test_every_tensor_must_be_there_with_its_shape_and_dtype(name: str) -> None:
    base = trained("r2vpo", "Pendulum-v1")
    others = {other: x for other, x in base.tensors.items() if other != name}
    held = base.tensors[name]
    with pytest.raises(CheckpointError, match=rf"^tensor '{name}' is missing$"):
        go_on(Checkpoint(others, base.state))
    for wrong in (held[None], held.to(torch.float64), torch.zeros(10**6)[:0], held.to(torch.complex64)):
        with pytest.raises(CheckpointError, match=rf"^tensor '{name}' is [^\n]*, which should be [^\n]*$"):
            go_on(Checkpoint({**others, name: wrong}, base.state))


@pytest.mark.parametrize(
    "name", ["policy.more", "../../etc/passwd", "/absolute", "zero\0byte", "new\nline", ""]
)
def test_a_tensor_too_many_is_refused_by_name(name: str) -> None:
    base = trained("ppo", "Pendulum-v1")
    with pytest.raises(CheckpointError, match=r"^tensor '[^\n]*' is unexpected$"):
        go_on(Checkpoint({**base.tensors, name: torch.zeros(1)}, base.state))


@pytest.mark.parametrize("content", ["zeros", "ones", "noise"])
def test_a_state_of_a_generator_that_cannot_be_is_refused(content: str) -> None:
    base = trained("ppo", "Pendulum-v1")
    like = base.tensors["generator.minibatches"]
    noise = torch.randint(256, like.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wrong = {"zeros": torch.zeros_like(like), "ones": torch.full_like(like, 255), "noise": noise}[content]
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        go_on(Checkpoint({**base.tensors, "generator.minibatches": wrong}, base.state))


def test_a_generator_that_would_read_beyond_its_own_state_is_refused() -> None:
    base = trained("ppo", "Pendulum-v1")
    state = base.tensors["generator.minibatches"].clone()
    words = state.view(torch.int64)
    # Of the 624 words of a Mersenne twister as many are left as were not taken yet.
    words[1], words[2] = (int(words[1]) >> 32 << 32) + 624, 624
    with pytest.raises(CheckpointError):
        go_on(Checkpoint({**base.tensors, "generator.minibatches": state}, base.state))


def test_restoring_leaves_a_refused_checkpoint_without_effect_on_the_next() -> None:
    with pytest.raises(CheckpointError):
        go_on(with_settings(hidden_sizes=[9]))
    with pytest.raises(CheckpointError):
        go_on(with_settings(critic_hidden_sizes=[9]))
    checkpoint = trained("ppo", "Pendulum-v1")
    assert differing(take_checkpoint(go_on(checkpoint)), checkpoint) == []


def test_an_environment_of_a_module_must_have_been_imported_by_someone_else() -> None:
    with pytest.raises(UserError, match=r"^[^\n]*--import never_imported\b[^\n]*$"):
        require_imported_environment(Config(algo="ppo", env="never_imported:Env-v0"))
    for env in ("gymnasium:CartPole-v1", "CartPole-v1", "json:CartPole-v1", ":CartPole-v1"):
        require_imported_environment(Config(algo="ppo", env=env))
    assert "never_imported" not in sys.modules


class Attempt(NamedTuple):
    """How an attempt to restore ended: `error` is a type's name, and None where it was restored."""

    error: str | None
    message: str
    seconds: float
    megabytes: float


LIMIT_MB, LIMIT_SECONDS = 1024, 3


def attempt(checkpoint: Checkpoint) -> Attempt:
    """In a process of its own, with a gigabyte more than this one and a few seconds."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_attempt, args=(checkpoint, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(2 * LIMIT_SECONDS) else Attempt("no end", "", math.inf, 0)
    except EOFError:
        return Attempt("the process died", "", 0, 0)
    finally:
        process.kill()
        process.join()


def _attempt(checkpoint: Checkpoint, connection: Connection) -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + LIMIT_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS))
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    error, message = None, ""
    try:
        go_on(checkpoint)
    except Exception as raised:
        error, message = type(raised).__name__, str(raised)
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send(Attempt(error, message, seconds, (after - before) / 1024))


def nothing_but_observations() -> Checkpoint:
    state = with_settings(hidden_sizes=[]).state
    action = {**state["action"], "size": 0, "low": [], "high": [], "shape": [0]}
    return changed(**{**state, "action": action, "observation": [2**31 - 1]})


HOSTILE: dict[str, Any] = {
    "environments": lambda: with_settings(num_envs=10**12),
    "environments beyond any integer": lambda: with_settings(num_envs=10**300),
    "environments, just allowed": lambda: with_settings(num_envs=9_999_000),
    "widths": lambda: with_settings(hidden_sizes=[10**6, 10**6]),
    "one width": lambda: with_settings(hidden_sizes=[10**300]),
    "widths of the critic": lambda: with_settings(critic_hidden_sizes=[10**6, 10**6]),
    "widths that are allowed": lambda: with_settings(hidden_sizes=[1000, 1000]),
    "depth that is allowed": lambda: with_settings(hidden_sizes=[1] * 100),
    "observations": lambda: changed(observation=[2**31 - 1]),
    "actions": lambda: with_action(size=2**31 - 1),
    "minibatches and epochs": lambda: with_settings(minibatch_size=10**12, rollout_steps=10**12),
    "threads beyond any integer": lambda: with_settings(torch_threads=2**40),
    "threads": lambda: with_settings(torch_threads=2**31 - 1),
    "depth": lambda: with_settings(hidden_sizes=[1] * 10**6),
    "depth of the critic": lambda: with_settings(critic_hidden_sizes=[1] * 10**6),
    "message": lambda: with_settings(hidden_sizes=[0] * 10**6),
    "episodes": lambda: changed(episodes=[[0, 1.0, 1]] * 100_000),
    "metrics": lambda: changed(metrics={str(i): 1.0 for i in range(100_000)}),
}
HOSTILE_AND_NOT_REFUSED: dict[str, Any] = {"observations without actions": nothing_but_observations}
MAY_BE_RESTORED = {"minibatches and epochs", "episodes", "metrics"}


@pytest.mark.parametrize("name", [*HOSTILE, *HOSTILE_AND_NOT_REFUSED])
def test_a_hostile_size_is_refused_soon_within_bounded_memory_and_in_one_short_line(name: str) -> None:
    make_checkpoint: Callable[[], Checkpoint] = {**HOSTILE, **HOSTILE_AND_NOT_REFUSED}[name]
    ended = attempt(make_checkpoint())
    assert ended.error == "CheckpointError" or (ended.error is None and name in MAY_BE_RESTORED), ended
    assert ended.seconds < LIMIT_SECONDS
    assert ended.megabytes < LIMIT_MB
    assert len(ended.message) < 1000
    assert len(ended.message.splitlines()) == (ended.error is not None)
