from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import toy_envs
from gymnasium.spaces import Box, Discrete

import rlkit_es
from rlkit_es import (
    ESPO,
    PPO,
    R2VPO,
    SDESPO,
    SDPPO,
    SDTRPO,
    SPO,
    TRPO,
    AdaptivePPO,
    Algorithm,
    UserError,
)
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.training.threads import threads

ALGORITHMS = {
    "ppo": PPO,
    "trpo": TRPO,
    "espo": ESPO,
    "sd_ppo": SDPPO,
    "sd_trpo": SDTRPO,
    "sd_espo": SDESPO,
    "spo": SPO,
    "r2vpo": R2VPO,
    "ppo_adaptive": AdaptivePPO,
}
# Few passes of the critic: what the policy's are is up to the kind of step.
SMALL = {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 16, "critic_epochs": 2, "compile": "off"}
LEARNING = {"num_envs": 8, "rollout_steps": 64, "minibatch_size": 128, "learning_rate": 2e-3}


@pytest.fixture(scope="module")
def pendulum() -> Algorithm:
    return PPO("Pendulum-v1", **SMALL, log_std_init=0.5).learn(200)


@pytest.fixture(scope="module")
def cartpole() -> Algorithm:
    return PPO("CartPole-v1", **SMALL).learn(200)


def observations(agent: Algorithm, count: int) -> np.ndarray:
    size = agent.spaces.observation.size
    return np.random.default_rng(0).normal(scale=3, size=(count, size)).astype(np.float32)


def test_learning_leaves_torch_the_threads_that_it_had() -> None:
    with threads(3):
        agent = PPO("CartPole-v1", **SMALL, torch_threads=1).learn(64)
        assert torch.get_num_threads() == 3
    agent.close()


def test_a_copy_is_another_agent_that_is_as_far(pendulum: Algorithm) -> None:
    copied = copy.deepcopy(pendulum)
    seen = observations(pendulum, 10)
    assert (type(copied), copied.config, copied.env_steps) == (PPO, pendulum.config, pendulum.env_steps)
    before = pendulum.predict(seen)
    assert np.array_equal(copied.predict(seen), before)
    assert copied.learn(64).env_steps > pendulum.env_steps
    assert not np.array_equal(copied.predict(seen), before)
    assert np.array_equal(pendulum.predict(seen), before)
    copied.close()


def test_a_copy_leaves_the_run_directory_to_the_original(tmp_path: Path) -> None:
    with PPO("CartPole-v1", **SMALL, run_dir=tmp_path / "run", eval_episodes=0).learn(64) as agent:
        before = (tmp_path / "run" / "metrics.csv").read_text()
        with copy.deepcopy(agent) as copied:
            copied.learn(64)
        assert copied.config.run_dir is None
        assert (tmp_path / "run" / "metrics.csv").read_text() == before


def test_an_agent_is_not_pickled_but_saved(pendulum: Algorithm) -> None:
    with pytest.raises(UserError, match=r"not pickled: save\(path\) writes .* rlkit_es.load\(path\) reads"):
        pickle.dumps(pendulum)


def test_an_agent_says_what_it_is_and_closes_itself() -> None:
    with PPO("CartPole-v1", **SMALL) as agent:
        agent.learn(64)
        assert repr(agent) == f"PPO('CartPole-v1', env_steps={agent.env_steps})"
        assert agent._trainer.envs
    assert not agent._trainer.envs


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ((np.zeros(4), {}), "got a tuple, which is what env.reset() returns: pass its first part"),
        ({"position": np.zeros(4)}, "got a dict: gymnasium.spaces.flatten makes an array of it"),
        (["a", "b", "c", "d"], "got a list"),
        ("hello", "got a str"),
        (None, "got a NoneType"),
        ([[1.0], [1.0, 2.0]], "got a list"),
    ],
)
def test_what_is_no_array_of_numbers_is_told_from_a_wrong_shape(
    cartpole: Algorithm, given: object, hint: str
) -> None:
    with pytest.raises(UserError, match="observation must be an array of numbers") as refused:
        cartpole.predict(given)
    assert str(refused.value).endswith(hint)


def test_evaluate_takes_agents_alone() -> None:
    with pytest.raises(UserError, match=r"evaluate takes an agent, got 'a.safetensors': rlkit_es.load"):
        rlkit_es.evaluate("a.safetensors")


def test_every_recipe_has_one_class_and_every_class_a_recipe() -> None:
    assert {name: (found,) for name, found in ALGORITHMS.items()} == {
        name: tuple(c for c in Algorithm.__subclasses__() if c.recipe == name) for name in RECIPES
    }
    assert len(Algorithm.__subclasses__()) == len(RECIPES)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_class_is_offered_by_the_package_and_says_where_it_is_from(name: str) -> None:
    found = ALGORITHMS[name]
    assert found.__name__ in rlkit_es.__all__
    assert getattr(rlkit_es, found.__name__) is found
    assert "arXiv:" in (found.__doc__ or "")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_settings_are_those_of_the_recipe_with_what_is_given(name: str) -> None:
    agent = ALGORITHMS[name]("CartPole-v1", seed=3, **SMALL, gamma=0.9)
    assert agent.config == rlkit_es.Config.for_algorithm(name, env="CartPole-v1", seed=3, **SMALL, gamma=0.9)
    assert agent.metrics == {}
    assert agent.env_steps == 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_learning_twice_goes_on(name: str) -> None:
    agent = ALGORITHMS[name]("Pendulum-v1", **SMALL)
    assert agent.learn(128) is agent
    first = agent.env_steps
    assert first == agent.metrics["env_steps"] == 128
    assert agent.learn(64).env_steps == 192
    assert agent.metrics["iteration"] == 3
    assert not list(Path().iterdir())
    agent.close()
    assert agent.predict(observations(agent, 1)[0]).shape == (1,)


@pytest.mark.parametrize("preset", ["nonsense", 3, ["reference-espo"]])
def test_a_preset_that_does_not_exist_is_refused(preset: object) -> None:
    with pytest.raises(UserError, match="preset"):
        ESPO("CartPole-v1", preset=preset)  # type: ignore[arg-type]


def test_a_setting_that_cannot_apply_is_refused() -> None:
    with pytest.raises(UserError, match="epochs has no effect on a natural step"):
        TRPO("CartPole-v1", epochs=5)


def test_a_misspelt_setting_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"unknown setting 'num_env'; did you mean num_envs"):
        PPO("CartPole-v1", num_env=3)


@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_learning_for_no_whole_number_of_steps_is_refused(cartpole: Algorithm, steps: float) -> None:
    with pytest.raises(UserError, match="total_steps"):
        cartpole.learn(steps)


def test_an_environment_in_place_of_its_id_is_refused() -> None:
    with pytest.raises(UserError, match=r"env must be an id, got <TimeLimit.*: .*gymnasium\.register"):
        PPO(gym.make("CartPole-v1"), **SMALL)


def test_the_class_of_all_algorithms_trains_nothing_and_loads_everything(
    pendulum: Algorithm, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="such as PPO or ESPO"):
        Algorithm("CartPole-v1")
    loaded = Algorithm.load(pendulum.save(tmp_path / "any"))
    assert loaded.config.algo == pendulum.config.algo
    assert equal(loaded, pendulum)


def test_learning_takes_the_steps_of_the_configuration_where_none_are_given() -> None:
    assert PPO("CartPole-v1", **SMALL, total_steps=200).learn().env_steps >= 200


def test_a_run_directory_may_be_a_string(tmp_path: Path) -> None:
    PPO("CartPole-v1", **SMALL, run_dir=str(tmp_path / "run"), eval_episodes=1).learn(64)
    assert (tmp_path / "run" / "evaluation.json").exists()


def test_a_run_directory_that_has_gone_is_named(tmp_path: Path) -> None:
    agent = PPO("CartPole-v1", **SMALL, run_dir="run", eval_episodes=0).learn(64)
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"^run directory run is not there .* from {tmp_path}$"):
        agent.learn(64)
    (tmp_path / "moved").rename(tmp_path / "run")
    before = agent.env_steps
    assert agent.learn(64).env_steps > before


@pytest.mark.parametrize("name", ["models/", "", "new/"])
def test_what_is_no_name_of_a_file_is_not_saved_under(name: str, cartpole: Algorithm, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match=r"^a file cannot be named"):
        cartpole.save(name)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_learning_again_goes_on_in_the_run_directory(tmp_path: Path) -> None:
    recorded, alone = (
        PPO("CartPole-v1", **SMALL, run_dir=run_dir, eval_episodes=1) for run_dir in (tmp_path / "run", None)
    )
    for steps in (100, 130):
        recorded.learn(steps)
        alone.learn(steps)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + recorded.metrics["iteration"]
    assert [row.split(",")[1] for row in rows[1:]] == [str(n) for n in range(1, len(rows))]
    assert equal(recorded, alone)
    assert equal(rlkit_es.load(tmp_path / "run"), alone)
    with pytest.raises(UserError, match="already holds a run"):
        PPO("CartPole-v1", **SMALL, run_dir=tmp_path / "run").learn(64)


def test_a_run_that_was_stopped_is_resumed_from_python(tmp_path: Path) -> None:
    class FaultError(Exception):
        pass

    class Fails(rlkit_es.Callback):
        def on_iteration(self, trainer: object, metrics: dict[str, float]) -> None:
            if metrics["iteration"] == 5:
                raise FaultError

    settings = {**SMALL, "checkpoint_every": 128, "eval_episodes": 1}
    whole = ESPO("Pendulum-v1", **settings).learn(512)
    with pytest.raises(FaultError):
        ESPO("Pendulum-v1", **settings, run_dir=tmp_path / "run").learn(512, callbacks=[Fails()])
    seen: list[float] = []

    class Watches(rlkit_es.Callback):
        def on_iteration(self, trainer: object, metrics: dict[str, float]) -> None:
            seen.append(metrics["env_steps"])

    resumed = rlkit_es.resume(str(tmp_path / "run"), callbacks=[Watches()], keep_checkpoints=1)
    assert isinstance(resumed, ESPO)
    assert seen == [320, 384, 448, 512]
    assert equal(resumed, whole)
    assert (tmp_path / "run" / "evaluation.json").exists()
    with pytest.raises(UserError, match="in this run"):
        rlkit_es.resume(tmp_path / "run", gamma=0.9)
    with pytest.raises(UserError, match="unknown setting 'total_step'; did you mean total_steps"):
        rlkit_es.resume(tmp_path / "run", total_step=1000)


def equal(a: Algorithm, b: Algorithm) -> bool:
    held = b.policy.state_dict()
    return all(torch.equal(value, held[name]) for name, value in a.policy.state_dict().items())


def test_predictions_for_continuous_actions(pendulum: Algorithm) -> None:
    batch = observations(pendulum, 50)
    actions = pendulum.predict(batch)
    assert actions.shape == (50, 1)
    assert actions.dtype == np.float32
    assert (np.abs(actions) <= 2).all()
    assert np.array_equal(pendulum.predict(batch), actions)
    one = pendulum.predict(batch[7])
    assert one.shape == (1,)
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, actions[7], rtol=1e-5, atol=1e-6)
    assert pendulum.predict(batch[:0]).shape == (0, 1)
    np.testing.assert_allclose(pendulum.predict(batch.astype(np.float64)), actions)
    np.testing.assert_allclose(pendulum.predict(batch.tolist()), actions)
    np.testing.assert_allclose(pendulum.predict(torch.tensor(batch, requires_grad=True)), actions)


def test_samples_are_within_the_bounds_and_spread_around_the_mode(pendulum: Algorithm) -> None:
    batch = np.repeat(observations(pendulum, 1), 2000, axis=0)
    samples = pendulum.predict(batch, deterministic=False)
    assert samples.shape == (2000, 1)
    assert (np.abs(samples) <= 2).all()
    assert (np.abs(samples) == 2).mean() > 0.3
    assert len(np.unique(samples)) > 200
    assert abs(np.median(samples) - pendulum.predict(batch[0])[0]) < 0.5


def test_samples_follow_from_the_seed() -> None:
    def samples(seed: int) -> np.ndarray:
        agent = PPO("Pendulum-v1", **SMALL, seed=seed)
        return agent.predict(np.zeros((5, 3)), deterministic=False)

    assert np.array_equal(samples(1), samples(1))
    assert not np.array_equal(samples(1), samples(2))


def test_predictions_for_discrete_actions_are_integers(cartpole: Algorithm) -> None:
    batch = observations(cartpole, 50)
    actions = cartpole.predict(batch)
    assert actions.shape == (50,)
    assert np.issubdtype(actions.dtype, np.integer)
    assert set(actions.tolist()) <= {0, 1}
    assert set(cartpole.predict(batch, deterministic=False).tolist()) == {0, 1}
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        action = cartpole.predict(observation)
        assert env.action_space.contains(action)
        observation = env.step(action)[0]


@pytest.mark.parametrize("shape", [(), (2,), (4,), (5, 4), (1, 2, 3), (3, 1)])
def test_an_observation_of_another_shape_is_refused(pendulum: Algorithm, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"\(3,\) or \(N, 3\)") as refused:
        pendulum.predict(np.zeros(shape))
    assert str(shape) in str(refused.value)


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (Box(-1, 1, (2, 2), np.float32), Box(-1, 3, (2, 1), np.float32)),
        (Box(-1, 1, (2,), np.float64), Box(-0.3963146, 0.80775857, (3,), np.float32)),
        (Box(-1, 1, (2,), np.float64), Box(-0.1, 0.1, (3,), np.float64)),
        (Box(-1, 1, (2,), np.float32), Box(-np.inf, np.inf, (1,), np.float32)),
        (Box(-1, 1, (2,), np.float32), Box(0, np.inf, (1,), np.float32)),
        (Box(-1, 1, (), np.float32), Discrete(3, start=-1)),
        (Box(-1, 1, (2,), np.float32), Discrete(4, start=2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale_actions", [True, False])
def test_what_environments_are_sent_lies_in_their_action_space(
    observation_space: gym.Space, action_space: gym.Space, scale_actions: bool
) -> None:
    def make() -> gym.Env:
        return toy_envs.Spaces(observation_space, action_space)

    gym.register("ToyAny-v0", make, disable_env_checker=True)
    try:
        # A wide policy, so that actions beyond the bounds are common; `make` asserts that none arrives.
        agent = PPO("ToyAny-v0", **SMALL, log_std_init=1.0, scale_actions=scale_actions)
        agent.learn(150)
        assert rlkit_es.evaluate(agent, 2).lengths == (6, 6)
    finally:
        del gym.registry["ToyAny-v0"]
    raw = np.full((20, int(np.prod(observation_space.shape))), 0.5)
    for action in agent.predict(raw, deterministic=False):
        assert action_space.contains(action.astype(action_space.dtype))


def test_evaluating_leaves_the_agent_as_it_is(pendulum: Algorithm) -> None:
    before = {name: x.clone() for name, x in pendulum.policy.state_dict().items()}
    result = rlkit_es.evaluate(pendulum, 3)
    assert result.episodes == 3
    assert result.lengths == (200,) * 3
    assert result.env_steps == pendulum.env_steps
    assert np.isfinite([*result.returns, result.return_mean, result.return_std]).all()
    assert rlkit_es.evaluate(pendulum, 3) == result
    assert rlkit_es.evaluate(pendulum, 3, seed=1) != result
    assert rlkit_es.evaluate(pendulum, 3, deterministic=False) != result
    assert all((x == before[name]).all() for name, x in pendulum.policy.state_dict().items())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_evaluating_with_what_is_no_seed_is_refused(pendulum: Algorithm, seed: int) -> None:
    with pytest.raises(UserError, match=f"seed must be .*, got {seed}"):
        rlkit_es.evaluate(pendulum, 1, seed=seed)


@pytest.mark.parametrize("episodes", [0, -1])
def test_evaluating_no_episodes_is_refused(pendulum: Algorithm, episodes: int) -> None:
    with pytest.raises(UserError, match="episodes must be a whole number of at least 1"):
        rlkit_es.evaluate(pendulum, episodes)


@pytest.mark.parametrize(
    "name",
    [
        *("ppo", "espo", "trpo"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in RECIPES
            if name not in ("ppo", "espo", "trpo")
        ),
    ],
)
def test_cartpole_is_learned(name: str) -> None:
    passes = {"critic_epochs": 6} if RECIPES[name].step == "natural" else {"epochs": 6}
    agent = ALGORITHMS[name]("CartPole-v1", **LEARNING, **passes, compile="off", env_threads=1)
    before = rlkit_es.evaluate(agent, 10, deterministic=False).return_mean
    agent.learn(30_000)
    after = rlkit_es.evaluate(agent, 10, deterministic=False).return_mean
    assert before < 50
    assert after > 150
    assert agent.metrics["episode_return_mean"] > 100


def test_whole_numbers_do_where_a_number_is_asked_for() -> None:
    whole = {
        "log_std_init": 0,
        "gamma": 1,
        "gae_lambda": 1,
        "max_grad_norm": 1,
        "observation_clip": 5,
        "reward_clip": 5,
    }
    agent = rlkit_es.PPO("Pendulum-v1", num_envs=2, rollout_steps=32, compile="off", **whole)
    agent.learn(64)
    assert np.isfinite(agent.metrics["value_loss"])
    agent.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 2.0}, r"^episodes must be a whole number of at least 1, got 2\.0$"),
        ({"episodes": "2"}, "^episodes must be a whole number of at least 1, got '2'$"),
        ({"episodes": 0}, "^episodes must be"),
        ({"episodes": True}, "^episodes must be"),
        ({"episodes": 1, "seed": 1.5}, "^seed must be a whole number"),
        ({"episodes": 1, "seed": -1}, "^seed must be a whole number"),
    ],
    ids=str,
)
def test_an_evaluation_of_no_whole_number_is_refused(
    pendulum: Algorithm, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        rlkit_es.evaluate(pendulum, **arguments)


def test_numbers_of_numpy_are_numbers(pendulum: Algorithm) -> None:
    one, other = (rlkit_es.evaluate(pendulum, n, seed=n) for n in (np.int64(2), 2))
    assert one.returns == other.returns
    agent = PPO("Pendulum-v1", **{**SMALL, "num_envs": np.int64(2), "learning_rate": np.float64(1e-3)})
    assert (type(agent.config.num_envs), type(agent.config.learning_rate)) == (int, float)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algo": "espo"}, "^PPO is ppo: leave algo out, or use another class$"),
        ({"normalize_rewards": False, "reward_clip": 1.0}, "^reward_clip bounds what normalize_rewards"),
        ({"normalize_observations": False, "observation_clip": 1.0}, "^observation_clip bounds what"),
        ({"gamma": 1.0, "horizon_growth": 3.0}, "^horizon_growth has no effect with a gamma of 1"),
        ({"wandb": "mine"}, "^wandb is given the run of a run directory: set run_dir too"),
    ],
    ids=str,
)
def test_settings_that_nothing_would_come_of_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PPO("Pendulum-v1", **settings)


def test_a_run_that_does_not_fit_into_memory_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^this run does not fit into memory: lower num_envs"):
        PPO("Pendulum-v1", **{**SMALL, "rollout_steps": 10**13}).learn(64)


def test_steps_that_cannot_be_leave_no_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="total_steps"):
        PPO("Pendulum-v1", **SMALL, run_dir=tmp_path / "run").learn(0)
    assert not (tmp_path / "run").exists()


def test_an_observation_of_more_dimensions_is_to_be_flattened(pendulum: Algorithm) -> None:
    with pytest.raises(UserError, match=r"got \(3, 1\): gymnasium\.spaces\.flatten\(.*\) makes it so$"):
        pendulum.predict(np.zeros((3, 1), dtype=np.float32))


def test_a_choice_is_observed_as_the_number_of_the_value_that_it_has() -> None:
    space = Discrete(16)
    with PPO(
        "FrozenLake-v1", env_kwargs={"is_slippery": False}, seed=0, num_envs=16, backend="gymnasium"
    ) as agent:
        agent.learn(40_000)
        assert rlkit_es.evaluate(agent, 1).return_mean == 1
        with pytest.raises(
            UserError, match=r"shape \(16,\) or \(N, 16\), got \(\): gymnasium\.spaces\.flatten"
        ):
            agent.predict(np.int64(3))
        assert Discrete(4).contains(agent.predict(gym.spaces.flatten(space, 3)))
