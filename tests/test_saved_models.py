"""Agents as files: what was saved acts, is evaluated and learns on as if it had never been a file."""

from __future__ import annotations

import ast
import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import toy_envs

import rlkit_es
from rlkit_es import Algorithm, CheckpointError, Config, NonFiniteError, UserError
from rlkit_es.algorithms import ALGORITHMS
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.runs.checkpoint_file import read_checkpoint, write_checkpoint
from rlkit_es.training import trainer as training
from rlkit_es.training.checkpoint import Checkpoint, take_checkpoint

SMALL = {
    "num_envs": 2,
    "rollout_steps": 16,
    "minibatch_size": 16,
    "critic_epochs": 2,
    "hidden_sizes": (8,),
    "learning_rate": 3e-3,
    "compile": "off",
    "env_threads": 1,
    "eval_episodes": 0,
}
SPEED = {"wall_seconds", "steps_per_second"}
# Kinds of action and of bounds, with and without normaliser; every recipe once.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "scaled onto bounds": ("ppo", "Pendulum-v1", {}),
    "clipped to bounds": ("espo", "Pendulum-v1", {"scale_actions": False, "log_std_init": 0.5}),
    "bounds about no zero": ("sd_ppo", "toy_envs:ToyPayday-v0", {}),
    "unit bounds": ("trpo", "toy_envs:ToyWalk-v0", {"hidden_sizes": (8, 5)}),
    "discrete": ("sd_espo", "CartPole-v1", {"backend": "gymnasium"}),
    "discrete in EnvPool": ("spo", "CartPole-v1", {}),
    "no normaliser": ("r2vpo", "CartPole-v1", {"normalize_observations": False, "backend": "gymnasium"}),
    "no normaliser at all": (
        "ppo_adaptive",
        "Pendulum-v1",
        {"normalize_observations": False, "normalize_rewards": False, "activation": "relu"},
    ),
    "many episodes": ("sd_trpo", "toy_envs:ToyWalk-v0", {"checkpoint_every": 16}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(algo: str, env: str, **settings: Any) -> Algorithm:
    passes = {} if RECIPES[algo].step == "natural" else {"epochs": 2}
    return ALGORITHMS[algo](env, **{**SMALL, **passes, **settings})


def observations(agent: Algorithm) -> np.ndarray:
    size = agent.spaces.observation.size
    return np.random.default_rng(0).normal(scale=3, size=(1000, size)).astype(np.float32)


def content(checkpoint: Checkpoint) -> dict[str, Any]:
    """All there is but how fast it was, in what can be compared: NaN equals NaN in text."""
    state = json.loads(json.dumps(checkpoint.state))
    for part in ("metrics", "progress"):
        kept = {name: value for name, value in state[part].items() if name not in SPEED}
        state[part] = {name: float(value) for name, value in kept.items()}
    tensors = {
        name: (x.dtype, tuple(x.shape), x.reshape(-1).view(torch.uint8).tolist())
        for name, x in checkpoint.tensors.items()
    }
    return {**tensors, "state": json.dumps(state)}


def differing(a: Checkpoint | Path, b: Checkpoint | Path) -> list[str]:
    left, right = (content(read_checkpoint(each) if isinstance(each, Path) else each) for each in (a, b))
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def everything(agent: Algorithm) -> Checkpoint:
    return take_checkpoint(agent._trainer)


def files_below(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


# In another process: predict, evaluate, learn on and save, for each name in the directory given.
ELSEWHERE = """
import json, sys
from pathlib import Path
import numpy as np
import rlkit_es, toy_envs
directory = Path(sys.argv[1])
for saved in sorted(directory.glob("*.first.safetensors")):
    name = saved.name.removesuffix(".first.safetensors")
    agent = rlkit_es.load(saved)
    np.save(directory / f"{name}.actions.npy", agent.predict(np.load(directory / f"{name}.observations.npy")))
    evaluation = rlkit_es.evaluate(agent, 3).as_dict()
    (directory / f"{name}.evaluation.json").write_text(json.dumps(evaluation))
    agent.save(directory / f"{name}.evaluated.safetensors")
    agent.learn(64)
    agent.save(directory / f"{name}.learned.safetensors")
    agent.close()
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Algorithm, Path]]]:
    """Each kind of agent after 96 steps of training, and the file it was saved in."""
    directory = tmp_path_factory.mktemp("saved")
    agents = {}
    for kind, (algo, env, settings) in KINDS.items():
        agent = make(algo, env, **settings, seed=3).learn(96)
        agents[kind] = agent, agent.save(directory / f"{kind}.first.safetensors")
        np.save(directory / f"{kind}.observations.npy", observations(agent))
    yield agents
    for agent, _ in agents.values():
        agent.close()


@pytest.fixture(scope="module")
def elsewhere(saved: dict[str, tuple[Algorithm, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where another process left what it made of the same files."""
    directory = saved["discrete"][1].parent
    paths = [str(Path(toy_envs.__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, str(directory)],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=environment,
        check=True,
    )
    return directory


@every_kind
def test_a_loaded_agent_acts_bitwise_as_the_saved_one(
    saved: dict[str, tuple[Algorithm, Path]], kind: str
) -> None:
    agent, path = saved[kind]
    batch, loaded = observations(agent), rlkit_es.load(path)
    expected, actions = agent.predict(batch), loaded.predict(batch)
    assert (actions.dtype, actions.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(actions, expected)
    assert len(np.unique(expected)) > (1 if np.issubdtype(expected.dtype, np.integer) else 100)
    assert np.array_equal(loaded.predict(batch[0]), agent.predict(batch[0]))
    samples = rlkit_es.load(path).predict(batch, deterministic=False)
    assert np.array_equal(loaded.predict(batch, deterministic=False), samples)


@every_kind
def test_in_another_process_it_acts_bitwise_as_the_saved_one(
    saved: dict[str, tuple[Algorithm, Path]], elsewhere: Path, kind: str
) -> None:
    agent, _ = saved[kind]
    actions = np.load(elsewhere / f"{kind}.actions.npy")
    assert actions.dtype == agent.predict(observations(agent)).dtype
    assert np.array_equal(actions, agent.predict(observations(agent)))


@every_kind
def test_its_evaluation_is_the_saved_ones_here_and_in_another_process(
    saved: dict[str, tuple[Algorithm, Path]], elsewhere: Path, kind: str
) -> None:
    agent, path = saved[kind]
    expected = rlkit_es.evaluate(agent, 3)
    assert rlkit_es.evaluate(rlkit_es.load(path), 3) == expected
    assert json.loads((elsewhere / f"{kind}.evaluation.json").read_text()) == expected.as_dict()


@every_kind
def test_evaluating_moves_nothing_that_learning_goes_on_from(
    saved: dict[str, tuple[Algorithm, Path]], elsewhere: Path, kind: str
) -> None:
    _, path = saved[kind]
    loaded = rlkit_es.load(path)
    for deterministic in (True, False):
        rlkit_es.evaluate(loaded, 2, deterministic=deterministic)
    loaded.predict(observations(loaded), deterministic=False)
    assert differing(everything(loaded), path) == []
    assert differing(elsewhere / f"{kind}.evaluated.safetensors", path) == []


@every_kind
def test_it_learns_on_bitwise_as_the_agent_that_was_never_saved_here_and_in_another_process(
    saved: dict[str, tuple[Algorithm, Path]], elsewhere: Path, kind: str
) -> None:
    _, path = saved[kind]
    algo, env, settings = KINDS[kind]
    never = make(algo, env, **settings, seed=3).learn(96).learn(64)
    loaded = rlkit_es.load(path).learn(64)
    assert differing(everything(loaded), everything(never)) == []
    assert differing(elsewhere / f"{kind}.learned.safetensors", everything(never)) == []
    moved = differing(everything(loaded), path)
    assert {"policy.actor.network.weight_0", "policy.critic.network.weight_0", "learner.steps", "state"} <= {
        *moved
    }
    assert {name for name in content(everything(loaded)) if "normalizer.mean" in name} <= {*moved}
    for agent in (never, loaded):
        agent.close()


def test_every_recipe_is_among_the_kinds() -> None:
    assert {algo for algo, _, _ in KINDS.values()} == set(RECIPES) == set(ALGORITHMS)


@every_kind
def test_saving_what_was_loaded_gives_the_same_again(
    saved: dict[str, tuple[Algorithm, Path]], tmp_path: Path, kind: str
) -> None:
    agent, path = saved[kind]
    assert differing(rlkit_es.load(path).save(tmp_path / "again"), path) == []
    loaded = rlkit_es.load(path)
    assert (loaded.config, loaded.env_steps) == (agent.config, agent.env_steps)
    assert loaded.metrics == pytest.approx(agent.metrics, nan_ok=True, rel=0, abs=0)


@every_kind
def test_the_class_is_found_from_the_file_and_another_is_refused_with_what_to_use(
    saved: dict[str, tuple[Algorithm, Path]], kind: str
) -> None:
    agent, path = saved[kind]
    assert type(rlkit_es.load(path)) is type(agent)
    assert type(type(agent).load(path)) is type(agent)
    for other in set(ALGORITHMS.values()) - {type(agent)}:
        with pytest.raises(CheckpointError) as refused:
            other.load(path)
        said = str(refused.value)
        assert said == f"{path} is of {agent.recipe}, not of {other.recipe}: use rlkit_es.load"


def test_a_users_own_class_of_a_recipe_does_not_keep_the_librarys_from_being_found(
    saved: dict[str, tuple[Algorithm, Path]],
) -> None:
    class Mine(Algorithm):
        recipe = "ppo"

    agent, path = saved["scaled onto bounds"]
    assert type(rlkit_es.load(path)) is type(agent)
    assert type(Mine.load(path)) is Mine


def test_loading_and_predicting_make_no_environment(
    saved: dict[str, tuple[Algorithm, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("an environment was made")

    monkeypatch.setattr(training, "make_envs", refuse)
    for agent, path in saved.values():
        loaded = rlkit_es.load(path)
        loaded.predict(observations(agent))
        loaded.close()


def test_without_its_environment_an_agent_acts_and_says_what_it_lacks(tmp_path: Path) -> None:
    gym.register("ToyPassing-v0", toy_envs.Walk, disable_env_checker=True)
    agent = make("ppo", "ToyPassing-v0").learn(32)
    path, expected = agent.save(tmp_path / "agent"), agent.predict(observations(agent))
    agent.close()
    del gym.registry["ToyPassing-v0"]
    loaded = rlkit_es.load(path)
    assert np.array_equal(loaded.predict(observations(loaded)), expected)
    for use in (lambda: loaded.learn(32), lambda: rlkit_es.evaluate(loaded, 1)):
        with pytest.raises(UserError, match=r"^unknown environment 'ToyPassing-v0'"):
            use()


def test_an_environment_of_other_spaces_than_the_saved_ones_is_refused(tmp_path: Path) -> None:
    gym.register("ToyChanging-v0", toy_envs.Walk, disable_env_checker=True)
    try:
        agent = make("ppo", "ToyChanging-v0").learn(32)
        path = agent.save(tmp_path / "agent")
        agent.close()
        del gym.registry["ToyChanging-v0"]
        gym.register("ToyChanging-v0", toy_envs.Payday, disable_env_checker=True)
        loaded = rlkit_es.load(path)
        for use in (lambda: loaded.learn(32), lambda: rlkit_es.evaluate(loaded, 1)):
            with pytest.raises(
                UserError, match=r"^[^\n]*is not the environment that the policy is for[^\n]*$"
            ):
                use()
    finally:
        gym.registry.pop("ToyChanging-v0", None)


# Prints what came of it, one JSON value a line.
NOT_IMPORTED = """
import json, sys
import numpy as np
import rlkit_es
agent = rlkit_es.load(sys.argv[1])
print(json.dumps(agent.predict(np.load(sys.argv[2])).tolist()))
for use in (lambda: agent.learn(16), lambda: rlkit_es.evaluate(agent, 1)):
    try:
        use()
    except rlkit_es.UserError as error:
        print(json.dumps(str(error)))
print(json.dumps("trojan" in sys.modules))
import trojan
print(json.dumps(rlkit_es.evaluate(agent.learn(16), 1).episodes))
"""


def test_a_file_has_no_module_imported_though_it_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trojan.py").write_text(
        "import pathlib, gymnasium, toy_envs\n"
        "pathlib.Path('mark').touch()\n"
        "gymnasium.register('Horse-v0', toy_envs.Walk, disable_env_checker=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    agent = make("ppo", "trojan:Horse-v0").learn(32)
    path, batch = agent.save(tmp_path / "agent"), observations(agent)
    np.save(tmp_path / "observations.npy", batch)
    agent.close()
    for name in ("trojan", "Horse-v0"):
        sys.modules.pop(name, None)
        gym.registry.pop(name, None)
    (tmp_path / "mark").unlink()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths = [str(tmp_path), str(Path(toy_envs.__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NOT_IMPORTED, str(path), str(tmp_path / "observations.npy")],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    actions, learning, evaluating, imported, episodes = map(json.loads, done.stdout.splitlines())
    assert np.array_equal(np.array(actions, np.float32), agent.predict(batch))
    for said in (learning, evaluating):
        assert "--import trojan" in said
        assert len(said.splitlines()) == 1
    assert imported is False
    assert episodes == 1
    assert [left.name for left in elsewhere.iterdir()] == ["mark"]


def test_in_the_process_that_has_the_module_an_agent_learns_on(
    saved: dict[str, tuple[Algorithm, Path]],
) -> None:
    agent, path = saved["unit bounds"]
    loaded = rlkit_es.load(path)
    assert loaded.config.env.startswith("toy_envs:")
    assert loaded.learn(32).env_steps >= agent.env_steps + 32
    loaded.close()


def test_a_loaded_agent_writes_nothing_though_the_saved_one_had_a_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    agent = make("ppo", "Pendulum-v1", run_dir=run, eval_episodes=1).learn(32)
    path = agent.save(tmp_path / "models" / "agent")
    agent.close()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = files_below(tmp_path)
    assert str(run).encode() not in path.read_bytes()
    for source in (path, run):
        loaded = rlkit_es.load(source)
        assert loaded.config.run_dir is None
        loaded.learn(32).close()
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("place", ["elsewhere", "../elsewhere", "/elsewhere"])
def test_a_file_that_names_a_run_directory_is_refused_and_nothing_is_written(
    saved: dict[str, tuple[Algorithm, Path]], tmp_path: Path, place: str
) -> None:
    whole = read_checkpoint(saved["discrete"][1])
    (tmp_path / "inner").mkdir()
    config = {**whole.state["config"], "run_dir": place.replace("/elsewhere", str(tmp_path / "elsewhere"))}
    write_checkpoint(
        tmp_path / "inner" / "file", Checkpoint(whole.tensors, {**whole.state, "config": config})
    )
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="run_dir"):
        rlkit_es.load(tmp_path / "inner" / "file")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_directory_is_loaded_at_its_last_its_best_and_any_step_that_is_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    agent = make("ppo", "CartPole-v1", run_dir=run, checkpoint_every=32, keep_checkpoints=2).learn(96)
    steps = sorted(int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))
    assert len(steps) == 2
    assert differing(everything(rlkit_es.load(run)), everything(agent)) == []
    assert differing(everything(rlkit_es.load(str(run), checkpoint=str(steps[1]))), everything(agent)) == []
    assert rlkit_es.load(run / "checkpoints", checkpoint=str(steps[0])).env_steps == steps[0]
    best = rlkit_es.PPO.load(run, checkpoint="best")
    assert differing(everything(best), run / "checkpoints" / "best.safetensors") == []
    with pytest.raises(UserError, match=f"there is {steps[0]}, {steps[1]}, best"):
        rlkit_es.load(run, checkpoint="1")
    agent.close()


def test_what_was_saved_is_tuned_with_other_settings(tmp_path: Path) -> None:
    with rlkit_es.PPO("CartPole-v1", num_envs=2, rollout_steps=16, compile="off") as agent:
        path = agent.learn(64).save(tmp_path / "agent")
    tuned = rlkit_es.load(path, learning_rate=1e-5, learning_rate_schedule="constant", gamma=0.9)
    assert (tuned.config.learning_rate, tuned.config.gamma) == (1e-5, 0.9)
    assert tuned.learn(64).metrics["learning_rate"] == pytest.approx(1e-5)
    elsewhere = rlkit_es.PPO.load(path, env="CartPole-v0")
    assert elsewhere.learn(64).env_steps > 128
    with pytest.raises(UserError, match="unknown setting 'lr'; here it is learning_rate"):
        rlkit_es.load(path, lr=1e-5)
    with pytest.raises(UserError, match="gamma must be a number"):
        rlkit_es.load(path, gamma=2)
    with pytest.raises(UserError, match=r"hidden_sizes is .* cannot be otherwise"):
        rlkit_es.load(path, hidden_sizes=(32, 32))
    other = rlkit_es.load(path, env="Pendulum-v1")
    for use in (lambda: other.learn(64), lambda: rlkit_es.evaluate(other, 1)):
        with pytest.raises(UserError, match="is not the environment that the policy is for"):
            use()
    tuned.close()
    elsewhere.close()


def test_a_step_may_be_given_as_a_number(tmp_path: Path) -> None:
    agent = make("ppo", "CartPole-v1", run_dir=tmp_path / "run").learn(32)
    agent.close()
    assert rlkit_es.load(tmp_path / "run", checkpoint=agent.env_steps).env_steps == agent.env_steps


def test_the_device_is_the_callers_choice_and_not_the_files(
    saved: dict[str, tuple[Algorithm, Path]], tmp_path: Path
) -> None:
    whole = read_checkpoint(saved["discrete"][1])
    config = {**whole.state["config"], "device": "cuda:7"}
    write_checkpoint(tmp_path / "file", Checkpoint(whole.tensors, {**whole.state, "config": config}))
    assert rlkit_es.load(tmp_path / "file").policy.action_low.device.type == "cpu"
    with pytest.raises(UserError, match=r"^device 'nowhere' cannot be used here[^\n]*$"):
        rlkit_es.load(tmp_path / "file", device="nowhere")


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("agent", "agent.safetensors"),
        ("agent.safetensors", "agent.safetensors"),
        ("agent.model", "agent.model"),
        ("deep/er/agent", "deep/er/agent.safetensors"),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_saving_says_where_and_writes_one_file(
    saved: dict[str, tuple[Algorithm, Path]], tmp_path: Path, asked: str, written: str, kind: type
) -> None:
    agent, path = saved["discrete"]
    assert agent.save(kind(tmp_path / asked)) == tmp_path / written
    assert list(files_below(tmp_path)) == [str(tmp_path / written)]
    assert differing(tmp_path / written, path) == []
    assert differing(everything(rlkit_es.load(kind(tmp_path / written))), path) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_file_that_was_there(
    saved: dict[str, tuple[Algorithm, Path]], tmp_path: Path, error: BaseException, place: str
) -> None:
    agent, _ = saved["discrete"]
    (tmp_path / "agent.safetensors").write_bytes(b"an older one")

    def fail(*_: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr({"fsync": os, "replace": Path}[place], place, fail)
        with pytest.raises((UserError, KeyboardInterrupt)) as refused:
            agent.save(tmp_path / "agent")
    assert files_below(tmp_path) == {str(tmp_path / "agent.safetensors"): b"an older one"}
    if isinstance(error, OSError):
        assert str(refused.value) == f"cannot write {tmp_path / 'agent.safetensors'}: {error.strerror}"


@pytest.mark.parametrize("place", ["file/agent", "file/deep/agent", "directory.d", "n" * 300])
def test_a_place_that_cannot_be_written_is_refused_in_one_line(
    saved: dict[str, tuple[Algorithm, Path]], tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "directory.d").mkdir()
    with pytest.raises(UserError, match=r"^cannot write [^\n]*$"):
        saved["discrete"][0].save(tmp_path / place)
    assert files_below(tmp_path) == {str(tmp_path / "file"): b"not a directory"}


def test_a_name_with_a_zero_byte_is_refused(saved: dict[str, tuple[Algorithm, Path]]) -> None:
    with pytest.raises(UserError):
        saved["discrete"][0].save("agent\0")


def test_an_agent_that_is_not_finite_is_not_saved_and_the_older_file_stays(tmp_path: Path) -> None:
    agent = make("ppo", "Pendulum-v1", backend="gymnasium")
    path = agent.save(tmp_path / "agent")
    before = path.read_bytes()
    with torch.no_grad():
        agent.policy.get_parameter("actor.log_std").fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"policy\.actor\.log_std is not finite"):
        agent.save(path)
    assert path.read_bytes() == before
    agent.close()


def test_what_loads_takes_every_setting_that_there_is(saved: dict[str, tuple[Algorithm, Path]]) -> None:
    known = {field.name for field in dataclasses.fields(Config)} - {"run_dir"}
    for _, path in saved.values():
        assert set(read_checkpoint(path).state["config"]) == known


@pytest.mark.parametrize("setting", ["observation_clip", "reward_clip"])
def test_what_loads_predicts_whatever_its_settings_are(
    saved: dict[str, tuple[Algorithm, Path]], tmp_path: Path, setting: str
) -> None:
    whole = read_checkpoint(saved["scaled onto bounds"][1])
    config = {**whole.state["config"], setting: 10**400}
    write_checkpoint(tmp_path / "file", Checkpoint(whole.tensors, {**whole.state, "config": config}))
    with pytest.raises(CheckpointError, match=setting):
        rlkit_es.load(tmp_path / "file").predict(np.zeros(3))


PACKAGE = Path(rlkit_es.__file__).parent
RUN_WHAT_THEY_READ = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"),
    *("yaml", "runpy", "code", "ctypes", "torch.hub", "torch.package", "torch.serialization"),
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "execfile"),
    *("torch.load", "torch.jit.load", "torch.export.load", "np.load", "numpy.load", "np.fromfile"),
    *("np.loadtxt", "pickle.load", "pickle.loads", "pandas.read_pickle", "os.system", "os.popen"),
}
# Modules that the user names: in the environment's id, and after --import.
MAY_IMPORT_BY_NAME = {"envs/registered.py", "commands/options.py"}


def called(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def imports_by_name(tree: ast.AST) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) in ("importlib.import_module", "import_module")]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_runs_what_it_reads(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not {*imported(tree)} & {*RUN_WHAT_THEY_READ, *FORBIDDEN_CALLS}
    assert not {*called(tree)} & FORBIDDEN_CALLS
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not attributes & {"allow_pickle", "weights_only", "load_state_dict", "__reduce__"}
    if str(path.relative_to(PACKAGE)) not in MAY_IMPORT_BY_NAME:
        assert not [call for call in imports_by_name(tree) if not isinstance(call.args[0], ast.Constant)]


def test_the_reader_of_calls_sees_the_ones_there_are() -> None:
    tree = ast.parse((PACKAGE / "runs" / "checkpoint_file.py").read_text())
    assert {"safetensors.torch.load", "json.loads"} <= {*called(tree)}
    assert "safetensors.torch" in {*imported(tree)}
    assert {*called(ast.parse("x = [eval(torch.load(y))]"))} == {"eval", "torch.load"} <= FORBIDDEN_CALLS
    for path in MAY_IMPORT_BY_NAME:
        assert len(imports_by_name(ast.parse((PACKAGE / path).read_text()))) == 1
