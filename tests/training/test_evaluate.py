from __future__ import annotations

from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy_envs import Badge, Broken, badge_episode

from rlkit_es.envs.registry import AtariSettings, make_vector_envs
from rlkit_es.envs.vector_env import VectorEnv, env_seeds
from rlkit_es.errors import NonFiniteError
from rlkit_es.training import evaluate
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation, evaluate_policy
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.training.trainer import Trainer


def trainer_for(env: str, **settings: object) -> Trainer:
    small = {"num_envs": 4, "rollout_steps": 16, "epochs": 1, "compile": "off", "minibatch_size": 32}
    return Trainer(Config.for_algorithm("ppo", env=env, **{**small, **settings}))


@pytest.mark.parametrize("episodes", [1, 3, 16, 23, 40])
def test_each_environment_runs_its_share_and_returns_are_raw_sums(episodes: int) -> None:
    trainer = trainer_for("ToyBadge-v0", normalize_rewards=True)
    trainer.train(64)
    result = evaluate_policy(
        trainer.policy, trainer.config, trainer.spaces, episodes=episodes, seed=5, env_steps=64
    )
    num_envs = min(episodes, 16)
    expected = [
        (badge * length, length)
        for i, seed in enumerate(env_seeds(5, num_envs))
        for badge, length in [badge_episode(seed)]
        for _ in range(i, episodes, num_envs)
    ]
    assert result.episodes == len(result.returns) == len(result.lengths) == len(expected) == episodes
    assert Counter(zip(result.returns, result.lengths, strict=True)) == Counter(expected)
    assert result.env_steps == 64


def test_returns_of_a_known_game() -> None:
    trainer = trainer_for("ToyPayday-v0")
    trainer.train(64)
    result = evaluate_policy(trainer.policy, trainer.config, trainer.spaces, episodes=6)
    assert result.returns == (1500.0,) * 6
    assert result.lengths == (5,) * 6
    assert (result.return_mean, result.return_std) == (1500, 0)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_evaluating_twice_gives_the_same(env: str, deterministic: bool) -> None:
    trainer = trainer_for(env)
    first, second = (
        evaluate_policy(
            trainer.policy, trainer.config, trainer.spaces, episodes=5, deterministic=deterministic
        )
        for _ in range(2)
    )
    other = evaluate_policy(
        trainer.policy, trainer.config, trainer.spaces, episodes=5, deterministic=deterministic, seed=1
    )
    assert first == second
    assert other.returns != first.returns
    assert np.isfinite(first.returns).all()


def test_sampling_differs_from_the_mode() -> None:
    trainer = trainer_for("Pendulum-v1")
    mode, sample = (
        evaluate_policy(
            trainer.policy, trainer.config, trainer.spaces, episodes=2, deterministic=deterministic
        )
        for deterministic in (True, False)
    )
    assert mode.returns != sample.returns


def test_environments_get_distinct_seeds_that_training_did_not_use() -> None:
    Badge.seeds_seen.clear()
    trainer = trainer_for("ToyBadge-v0", seed=3)
    trainer.begin_segment()
    training = list(Badge.seeds_seen)
    evaluate_policy(trainer.policy, trainer.config, trainer.spaces, episodes=20)
    evaluation = Badge.seeds_seen[len(training) :]
    assert len(set(training)) == 4
    assert len(set(evaluation)) == 16
    assert not set(training) & set(evaluation)


def test_every_segment_has_environments_of_its_own() -> None:
    Badge.seeds_seen.clear()
    trainer = trainer_for("ToyBadge-v0", seed=3, checkpoint_every=64)
    trainer.train(192)
    trainer.close()
    expected = [seed for segment in range(3) for seed in env_seeds(trainer.seeds.envs, 4, segment)]
    assert Badge.seeds_seen == expected
    assert len(set(expected)) == 12


def test_what_chooses_the_best_policy_does_not_judge_it() -> None:
    Badge.seeds_seen.clear()
    trainer = trainer_for("ToyBadge-v0", seed=3, eval_every=64, eval_episodes=8)
    trainer.train(64)
    periodic = Badge.seeds_seen[4:]
    trainer.evaluate(8)
    final = Badge.seeds_seen[4 + len(periodic) :]
    trainer.close()
    assert len(set(periodic)) == len(set(final)) == 8
    assert not set(periodic) & set(final)


def test_games_are_judged_whole_and_as_they_were_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def make(env_id: str, num_envs: int, **settings: Any) -> list[VectorEnv]:
        asked.append(settings["atari"])
        return make_vector_envs("ToyBadge-v0", num_envs, backend="gymnasium")

    trainer = trainer_for("ToyBadge-v0")
    monkeypatch.setattr(evaluate, "make_vector_envs", make)
    config = Config.for_algorithm("ppo", env="ALE/Breakout-v5", sticky_actions=0.25, episodic_life=True)
    evaluate_policy(trainer.policy, config, trainer.spaces, episodes=1)
    trainer.close()
    assert asked == [AtariSettings(sticky_actions=0.25, episodic_life=False)]


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_seeds_of_a_run_are_independent(seed: int) -> None:
    seeds = derive_seeds(seed)
    assert derive_seeds(seed) == seeds
    assert len({*seeds, *derive_seeds(seed + 1)}) == 2 * len(seeds)
    assert not set(env_seeds(seeds.envs, 256)) & set(env_seeds(seeds.evaluation, 16))


def test_what_is_written_is_consistent() -> None:
    result = Evaluation(env_steps=7, returns=(1.0, 2.0, 6.0), lengths=(3, 4, 5))
    assert result.as_dict() == {
        "env_steps": 7,
        "episodes": 3,
        "returns": [1.0, 2.0, 6.0],
        "lengths": [3, 4, 5],
        "return_mean": 3.0,
        "return_std": pytest.approx(np.std([1, 2, 6])),
    }


def test_the_mode_is_what_is_evaluated() -> None:
    trainer = trainer_for("CartPole-v1")
    # Always left: every episode falls within a dozen steps.
    with torch.no_grad():
        for parameter in trainer.policy.actor.parameters():
            parameter.zero_()
        list(trainer.policy.actor.parameters())[-1].copy_(torch.tensor([5.0, 0.0]))
    result = evaluate_policy(trainer.policy, trainer.config, trainer.spaces, episodes=8)
    assert max(result.returns) <= 12
    assert list(result.returns) == [float(length) for length in result.lengths]


@pytest.mark.usefixtures("nothing_stays_registered")
@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize(("what", "at"), [("reward", 2), ("observation", 0), ("observation", 2)])
def test_numbers_that_are_none_are_refused_as_in_training(what: str, at: int, value: float) -> None:
    gym.register("ToyBroken-v0", Broken, kwargs={"what": what, "at": at, "value": value})
    trainer = trainer_for("ToyBroken-v0")
    with pytest.raises(NonFiniteError, match=f"^environment 0 returned a non-finite {what}: "):
        evaluate_policy(trainer.policy, trainer.config, trainer.spaces, episodes=2)
