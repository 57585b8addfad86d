"""Training on pictures: rollouts, what is learned from and reported, defaults for Atari, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from recordings import as_a_gpu_would

import rlkit_es
from rlkit_es import run
from rlkit_es.algorithms import ALGORITHMS
from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv
from rlkit_es.envs.registry import make_vector_envs
from rlkit_es.errors import CheckpointError, UserError
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.runs import experiment, resume
from rlkit_es.runs.checkpoint_file import read_checkpoint, write_checkpoint
from rlkit_es.training.batches import prepare_batch
from rlkit_es.training.callbacks import Callback
from rlkit_es.training.checkpoint import Checkpoint, take_checkpoint
from rlkit_es.training.config import Config
from rlkit_es.training.defaults import env_defaults
from rlkit_es.training.episodes import EpisodeTracker
from rlkit_es.training.policy import make_policy
from rlkit_es.training.presets import PRESETS
from rlkit_es.training.rollout import RolloutCollector
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import ActionSpec, ObservationSpec, Rollout, Spaces

PONG = "ALE/Pong-v5"
TINY: dict[str, Any] = {
    "env": PONG,
    "num_envs": 2,
    "rollout_steps": 8,
    "minibatch_size": 8,
    "critic_epochs": 1,
    "precision": "float32",
    "torch_threads": 1,
    "eval_episodes": 0,
}
GAMMA = 0.9
SEEDS = [0, 1, 2, 4]


class Pages(gym.Env):
    """Pictures (H, W, C) that show their episode and its step; every step pays 10 times its number."""

    observation_space = Box(0, 255, (36, 40, 2), np.uint8)
    action_space = Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.episode = self.episode + 1 if seed is None else seed % 100
        self.t = 0
        return self._picture(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        ended = self.t == 3 + self.episode % 4
        return self._picture(), 10.0 * self.t, ended and self.episode % 2 == 0, ended and self.episode % 2, {}

    def _picture(self) -> np.ndarray:
        picture = np.empty((36, 40, 2), np.uint8)
        picture[..., 0], picture[..., 1] = self.episode, 20 * self.t
        return picture


gym.register("ToyPages-v0", Pages, disable_env_checker=True)


def pages(mode: AutoresetMode, num_envs: int = len(SEEDS)) -> GymnasiumVectorEnv:
    return GymnasiumVectorEnv(SyncVectorEnv([Pages] * num_envs, autoreset_mode=mode))


def policy_of_pages(**settings: Any) -> ActorCritic:
    config = Config(algo="ppo", **{"precision": "float32", "hidden_sizes": (), **settings})
    spec = Spaces(ObservationSpec((2, 36, 40)), ActionSpec(size=3, discrete=True))
    return make_policy(config, spec, seed=0)


def collector(
    groups: Sequence[GymnasiumVectorEnv], steps: int, seeds: Sequence[int] = SEEDS, **settings: Any
) -> RolloutCollector:
    generator, device = torch.Generator().manual_seed(2), torch.device("cpu")
    return RolloutCollector(groups, steps, generator=generator, seeds=seeds, device=device, **settings)


def memory(tensor: torch.Tensor) -> tuple[int, int]:
    """Where it lies, and how many bytes there are."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def shown(picture: torch.Tensor) -> list[tuple[int, int]]:
    """Episode and step of pictures (..., 2, 36, 40), which are whole."""
    flat = picture.flatten(0, -4)
    assert (flat == flat[:, :, :1, :1]).all()
    return [(int(episode), int(step) // 20) for episode, step in flat[:, :, 0, 0]]


# --- rollouts ---


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("sizes", [(4,), (3, 1)])
def test_the_next_picture_is_the_true_one_also_where_the_episode_ended(
    mode: AutoresetMode, sizes: tuple[int, ...]
) -> None:
    collect, ends = collector([pages(mode, size) for size in sizes], 9), 0
    for _ in range(3):
        rollout = collect.collect(policy_of_pages())
        assert rollout.observation.dtype == rollout.next_observation.dtype == torch.uint8
        assert rollout.observation.shape == rollout.next_observation.shape == (9, 4, 2, 36, 40)
        before, after = shown(rollout.observation), shown(rollout.next_observation)
        done, valid = rollout.done.flatten().tolist(), rollout.valid.flatten().tolist()
        for (episode, step), following, ended, real in zip(before, after, done, valid, strict=True):
            assert following == (episode, step + 1) or not real
            assert not real or ended == (step + 1 == 3 + episode % 4)
            ends += ended and real
    assert ends >= 12


@pytest.mark.parametrize("mode", AutoresetMode)
def test_pictures_are_kept_once_but_where_an_episode_ended_that_reset_in_the_same_step(
    mode: AutoresetMode,
) -> None:
    collect = collector([pages(mode, 3), pages(mode, 1)], 2)
    kinds = set()
    for _ in range(4):
        rollout = collect.collect(policy_of_pages())
        once = memory(rollout.observation) == memory(rollout.next_observation)
        assert once == (mode is AutoresetMode.NEXT_STEP or not rollout.done.any())
        assert memory(rollout.observation)[1] == 3 * 4 * 2 * 36 * 40
        if once:
            assert rollout.next_observation.data_ptr() == rollout.observation[1:].data_ptr()
        kinds.add(once)
    assert kinds == ({True} if mode is AutoresetMode.NEXT_STEP else {True, False})


@pytest.mark.parametrize("shared", [True, False])
def test_what_acting_on_shared_features_gives_is_kept_for_the_batch(shared: bool) -> None:
    policy = policy_of_pages(share_encoder=shared)
    rollout = collector([pages(AutoresetMode.NEXT_STEP)], 5).collect(policy)
    assert (rollout.behaviour is not None) == (rollout.value is not None) == shared
    kept, *_ = prepare_batch(rollout, policy, None, gamma=0.9, gae_lambda=0.8)
    anew, *_ = prepare_batch(
        rollout._replace(behaviour=None, value=None), policy, None, gamma=0.9, gae_lambda=0.8
    )
    for name, value in anew._asdict().items():
        torch.testing.assert_close(getattr(kept, name), value, msg=name)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_acting_that_was_recorded_collects_the_same(precision: str, shared: bool) -> None:
    policy = policy_of_pages(share_encoder=shared, precision=precision)
    plain, recorded = (
        collector([pages(AutoresetMode.NEXT_STEP)], 5, record=record) for record in (None, as_a_gpu_would)
    )
    for _ in range(3):
        fields = [rollout.collect(policy)._asdict() for rollout in (plain, recorded)]
        for name, field in fields[0].items():
            assert field is fields[1][name] is None or torch.equal(field, fields[1][name]), name
        with torch.no_grad():  # the policy moves on
            for parameter in policy.parameters():
                parameter.mul_(1.5)


def test_a_rollout_is_not_overwritten_by_the_next() -> None:
    collect = collector([pages(AutoresetMode.NEXT_STEP)], 5)
    first = collect.collect(policy_of_pages())
    kept = Rollout(*(field.clone() for field in first))
    collect.collect(policy_of_pages())
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_the_batch_is_the_pictures_as_they_are_without_a_copy() -> None:
    policy = policy_of_pages()
    rollout = collector([pages(AutoresetMode.NEXT_STEP)], 6).collect(policy)
    batch, *_ = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=0.9)
    assert batch.observation.dtype == torch.uint8
    assert memory(batch.observation) == memory(rollout.observation)
    assert torch.equal(batch.behaviour, policy.actor(batch.observation))


def test_a_rollout_of_atari_takes_the_memory_of_its_frames() -> None:
    config = Config.for_algorithm("ppo", **{**TINY, "num_envs": 8, "rollout_steps": 128})
    (envs,) = make_vector_envs(PONG, 8, backend="auto")
    policy = make_policy(config, Spaces(envs.observation, envs.action), seed=0)
    rollout = collector([envs], 128, seeds=range(8)).collect(policy)
    assert rollout.observation.shape == (128, 8, 4, 84, 84)
    assert memory(rollout.observation)[1] == 129 * 8 * 28_224
    assert memory(rollout.next_observation) == memory(rollout.observation)
    assert rollout.valid.all()
    # Of four frames three are those of the step before.
    assert torch.equal(rollout.next_observation[:, :, :3], rollout.observation[:, :, 1:])


@pytest.mark.parametrize("mode", AutoresetMode)
def test_advantages_bootstrap_from_the_true_final_picture(mode: AutoresetMode) -> None:
    policy = policy_of_pages()
    with torch.no_grad():
        policy.critic.network.bias_0.add_(3.0)
    rollout = collector([pages(mode)], 9).collect(policy)
    batch, *_ = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=0.0)
    value, following = (
        policy.value(seen.flatten(0, 1)).view(9, -1)
        for seen in (rollout.observation, rollout.next_observation)
    )
    expected = rollout.reward + GAMMA * following * ~rollout.terminated - value
    found = batch.advantage.view(9, -1)
    torch.testing.assert_close(found[rollout.valid], expected[rollout.valid], rtol=1e-4, atol=1e-4)
    assert (rollout.truncated & rollout.valid).any()
    assert (rollout.terminated & rollout.valid).any()


# --- what is learned from, and what is reported ---


def test_the_sign_of_rewards_is_learned_from_and_their_sum_is_reported() -> None:
    policy = policy_of_pages()
    rollout = collector([pages(AutoresetMode.NEXT_STEP)], 20).collect(policy)
    rollout = rollout._replace(reward=rollout.reward - 15)  # -5, 5, 15, ...
    settings = {"gamma": GAMMA, "gae_lambda": 0.9}
    signed, *_ = prepare_batch(rollout, policy, None, **settings, sign_rewards=True)
    by_hand, *_ = prepare_batch(
        rollout._replace(reward=rollout.reward.sign()), policy, None, **settings, sign_rewards=False
    )
    raw, *_ = prepare_batch(rollout, policy, None, **settings)
    assert torch.equal(signed.advantage, by_hand.advantage)
    assert torch.equal(signed.value_target, by_hand.value_target)
    assert not torch.allclose(signed.advantage, raw.advantage)
    assert rollout.reward.abs().max() > 1  # left as it was


@pytest.mark.parametrize("sign_rewards", [True, False])
def test_reported_returns_are_of_raw_rewards(sign_rewards: bool) -> None:
    settings = {**TINY, "env": "ToyPages-v0", "rollout_steps": 32, "backend": "gymnasium"}
    small = {"epochs": 1, "sign_rewards": sign_rewards, "normalize_rewards": False, "hidden_sizes": ()}
    trainer = Trainer(Config.for_algorithm("ppo", **settings, **small))
    trainer.train(64)
    trainer.close()
    assert len(trainer.episodes.recent) >= 6
    for episode in trainer.episodes.recent:
        assert episode.episode_return == 5 * episode.length * (episode.length + 1)


def synthetic(life_lost_at: int | None) -> Rollout:
    """Six steps of one environment, which ends with the last; a life is lost before."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.randint(256, (7, 1, 2, 36, 40), dtype=torch.uint8, generator=generator)
    no = torch.zeros(6, 1, dtype=torch.bool)
    lost, terminated = no.clone(), no.clone()
    terminated[5] = True
    if life_lost_at is not None:
        lost[life_lost_at] = terminated[life_lost_at] = True
    return Rollout(
        observation=seen[:-1],
        next_observation=seen[1:],
        action=torch.zeros(6, 1, dtype=torch.int64),
        reward=torch.arange(1.0, 7.0).view(6, 1),
        terminated=terminated,
        truncated=no,
        valid=~no,
        life_lost=lost,
    )


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9])
def test_a_lost_life_cuts_what_is_learned_from(gae_lambda: float) -> None:
    policy = policy_of_pages()
    with torch.no_grad():
        policy.critic.network.bias_0.add_(3.0)

    def advantages(rollout: Rollout) -> torch.Tensor:
        return prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=gae_lambda)[0].advantage

    rollout, uncut = synthetic(2), synthetic(None)
    cut, whole = advantages(rollout), advantages(uncut)
    value = policy.value(rollout.observation.flatten(0, 1))
    torch.testing.assert_close(cut[2], 3.0 - value[2])
    assert torch.equal(cut[3:], whole[3:])
    # As if the game had ended there.
    ended = advantages(rollout._replace(life_lost=torch.zeros_like(rollout.life_lost)))
    assert torch.equal(cut, ended)
    unequal = (cut - whole).abs() > 1e-3
    assert unequal.tolist() == [gae_lambda > 0, gae_lambda > 0, True, False, False, False]


def test_a_lost_life_does_not_end_the_game_that_is_reported() -> None:
    assert EpisodeTracker(1).track(synthetic(2)) == EpisodeTracker(1).track(synthetic(None)) == [(0, 21.0, 6)]
    rollout = synthetic(2)
    assert rollout.done.flatten().nonzero().flatten().tolist() == [2, 5]
    assert rollout.over.flatten().nonzero().flatten().tolist() == [5]
    ended = rollout._replace(life_lost=torch.zeros_like(rollout.life_lost))
    assert EpisodeTracker(1).track(ended) == [(0, 6.0, 3), (0, 15.0, 3)]


# --- defaults ---

EVERYWHERE_ON_ATARI = {
    "total_steps": 10_000_000,
    "num_envs": 8,
    "minibatch_size": 256,
    "critic_epochs": 4,
    "hidden_sizes": (),
    "normalize_observations": False,
    "normalize_rewards": False,
    "sign_rewards": True,
    "episodic_life": True,
    "sticky_actions": 0.0,
    "torch_threads": 0,
    "horizon_growth": 1.0,
    "gae_lambda": 0.95,
}
BY_STEP: dict[str, dict[str, Any]] = {
    "adam": {
        "rollout_steps": 128,
        "epochs": 4,
        "learning_rate": 2.5e-4,
        "critic_learning_rate": None,
        "log_std_learning_rate": None,
        "recompute_advantages": False,
        "clip_range": 0.1,
        "deviation_threshold": 0.1,
        "entropy_coefficient": 0.01,
    },
    "natural": {
        "rollout_steps": 256,
        "learning_rate": 2.5e-4,
        "max_kl": 0.01,
        "max_kl_schedule": "constant",
        "fisher_fraction": 0.2,
    },
}
STOPPING = {"common_gradient": 0.0, "learning_rate": 1e-4, "critic_learning_rate": 2.5e-4}

every_recipe = pytest.mark.parametrize("algo", RECIPES)


def held(config: Config, names: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


@every_recipe
@pytest.mark.parametrize("env", [PONG, "ALE/Breakout-v5", "ALE/MsPacman-v4"])
def test_atari_has_defaults_of_its_own(algo: str, env: str) -> None:
    expected = {**EVERYWHERE_ON_ATARI, **BY_STEP[RECIPES[algo].step]}
    stops = RECIPES[algo].stop == "ratio_deviation"
    expected |= STOPPING if stops else {"common_gradient": 1.0}
    config = Config.for_algorithm(algo, env=env)
    assert held(config, expected) == expected
    assert config.shares_encoder == (RECIPES[algo].step == "adam")
    others = {name: value for name, value in RECIPES[algo].defaults.items() if name not in expected}
    assert held(config, others) == others


@every_recipe
@pytest.mark.parametrize("env", ["Humanoid-v4", "CartPole-v1", "CheetahRun-v1", "mine:ALE-v1"])
def test_other_environments_have_the_recipes_defaults(algo: str, env: str) -> None:
    assert env_defaults(env, RECIPES[algo]) == {}
    assert Config.for_algorithm(algo, env=env) == Config(algo=algo, env=env, **RECIPES[algo].defaults)


@every_recipe
def test_dm_control_explores_widely_at_one_rate_and_horizon(algo: str) -> None:
    config = Config.for_algorithm(algo, env="dm_control/cheetah-run-v0")
    assert config.log_std_init == 0
    assert not config.recompute_advantages
    assert (config.critic_learning_rate, config.log_std_learning_rate) == (None, None)
    if RECIPES[algo].step == "adam":
        assert (config.num_envs, config.rollout_steps, config.learning_rate) == (64, 32, 3e-4)
    assert (config.horizon_growth, config.gae_lambda) == (1.0, 0.95)
    assert dataclasses.replace(config, log_std_init=-0.5) == Config.for_algorithm(
        algo, env="dm_control/cheetah-run-v0", log_std_init=-0.5
    )
    usual = env_defaults(config.env, RECIPES[algo])
    assert config == Config(algo=algo, env=config.env, **{**RECIPES[algo].defaults, **usual})


@every_recipe
def test_overrides_win_over_ataris_defaults(algo: str) -> None:
    mine = {
        "num_envs": 4,
        "rollout_steps": 64,
        "minibatch_size": 128,
        "critic_epochs": 2,
        "hidden_sizes": (32,),
        "sign_rewards": False,
        "normalize_rewards": True,
        "torch_threads": 1,
        "episodic_life": False,
        "sticky_actions": 0.25,
        "learning_rate": 1e-3,
        "total_steps": 100,
    }
    config = Config.for_algorithm(algo, env=PONG, **mine)
    assert held(config, mine) == mine
    assert config.normalize_observations is False


@pytest.mark.parametrize(
    ("preset", "algo"), [(preset, algo) for preset, by_algorithm in PRESETS.items() for algo in by_algorithm]
)
def test_a_preset_wins_over_ataris_defaults_and_an_override_over_both(preset: str, algo: str) -> None:
    published = PRESETS[preset][algo]
    config = Config.for_algorithm(algo, preset=preset, env=PONG)
    assert held(config, published) == dict(published)
    usual = env_defaults(PONG, RECIPES[algo])
    assert {"num_envs", "sign_rewards"} <= usual.keys()
    rest = {name: value for name, value in usual.items() if name not in published}
    assert held(config, rest) == rest
    assert Config.for_algorithm(algo, preset=preset, env=PONG, num_envs=3, rollout_steps=2048).num_envs == 3


@every_recipe
@pytest.mark.parametrize("arguments", ["--env {env} --algo {algo}", "--algo={algo} --env={env}"])
def test_the_command_line_starts_from_ataris_defaults(algo: str, arguments: str) -> None:
    words = arguments.format(env=PONG, algo=algo).split()
    assert run.parse(words) == Config.for_algorithm(algo, env=PONG)
    changed = run.parse([*words, "--num-envs", "4", "--no-sign-rewards", "--sticky-actions", "0.25"])
    expected = {"num_envs": 4, "sign_rewards": False, "sticky_actions": 0.25}
    assert changed == Config.for_algorithm(algo, env=PONG, **expected)


@pytest.mark.parametrize(
    ("arguments", "num_envs", "sign"), [(["--env", PONG], 8, True), (["--env", "Humanoid-v4"], 64, False)]
)
def test_help_shows_the_defaults_of_the_environment(
    arguments: list[str], num_envs: int, sign: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run.parse([*arguments, "--help"])
    assert left.value.code in (0, None)
    shown = " ".join(re.sub(r"[│\s]+", " ", capsys.readouterr().out).split())
    assert re.search(rf"--num-envs INT [^-]*\(default: {num_envs}\)", shown)
    assert re.search(rf"--no-sign-rewards [^(]*\(default: {sign}\)", shown)


# --- refusals ---


@pytest.mark.parametrize(
    ("algo", "settings", "message"),
    [
        ("ppo", {"sign_rewards": True}, r"sign_rewards and normalize_rewards .*--no-normalize-rewards"),
        ("ppo", {"env": PONG, "normalize_rewards": True}, r"sign_rewards and normalize_rewards"),
        ("ppo", {"sticky_actions": 0.25}, r"sticky_actions .*Atari.*Humanoid-v4"),
        ("trpo", {"share_encoder": True}, r"share_encoder .*natural step"),
        ("sd_trpo", {"share_encoder": True, "env": PONG}, r"share_encoder .*natural step"),
        ("ppo", {"encoder": "natur_cnn", "env": PONG}, r"encoder must be one of .*nature_cnn.*'natur_cnn'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(algo: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        Config.for_algorithm(algo, **settings)
    assert "\n" not in str(refused.value)


def test_what_says_nothing_is_taken() -> None:
    assert not Config.for_algorithm("trpo", env=PONG, share_encoder=False).shares_encoder
    assert Config.for_algorithm("ppo", share_encoder=True).shares_encoder
    assert Config.for_algorithm("ppo", sticky_actions=0.0, episodic_life=False).sticky_actions == 0


def test_compilation_of_pictures_is_refused_before_anything_is_trained() -> None:
    settings = {**TINY, "env": "ToyPages-v0", "backend": "gymnasium", "epochs": 1}
    trainer = Trainer(Config.for_algorithm("ppo", compile="on", **settings))
    with pytest.raises(UserError, match=r"^compile is on, but [^\n]*pictures[^\n]*--compile auto$"):
        trainer.train(16)
    assert trainer.progress.env_steps == 0
    trainer.close()


class Tall(Pages):
    observation_space = Box(0, 255, (36, 35), np.uint8)


gym.register("ToyTall-v0", Tall, disable_env_checker=True)


def test_an_environment_with_pictures_that_are_too_small_is_refused_with_a_way_out() -> None:
    ways = r"FlattenObservation.*an encoder of your own.*ResizeObservation"
    with pytest.raises(UserError, match=rf"^.*36 x 35.*{ways}$"):
        Trainer(Config.for_algorithm("ppo", **{**TINY, "env": "ToyTall-v0", "backend": "gymnasium"}))


class Board(gym.Env):
    """Put a stone into the one column that is not full; uint8 are numbers here."""

    observation_space = Box(0, 2, (6, 7), np.uint8)
    action_space = Discrete(7)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.column = int(self.np_random.integers(7))
        board = np.ones((6, 7), np.uint8)
        board[:, self.column] = 0
        return board, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.full((6, 7), 2, np.uint8), float(action == self.column), True, False, {}


def flat_board(**settings: Any) -> gym.Env[Any, Any]:
    return gym.wrappers.FlattenObservation(Board(**settings))


gym.register("ToyFlatBoard-v0", flat_board, disable_env_checker=True)


def test_a_board_that_is_flattened_is_learned_as_numbers() -> None:
    agent = rlkit_es.PPO(
        "ToyFlatBoard-v0",
        backend="gymnasium",
        num_envs=8,
        rollout_steps=64,
        learning_rate=3e-3,
        compile="off",
    )
    assert not agent.spaces.observation.pixels
    agent.learn(8 * 64 * 12)
    boards = np.ones((7, 6, 7), np.uint8)
    boards[np.arange(7), :, np.arange(7)] = 0
    assert agent.predict(boards.reshape(7, 42)).tolist() == list(range(7))
    assert rlkit_es.evaluate(agent, episodes=8).return_mean == 1
    assert rlkit_es.load(agent.save("board")).predict(boards[3].flatten()) == 3


# --- what is saved ---


def configure(algo: str, **changes: Any) -> Config:
    passes = {"epochs": 1} if RECIPES[algo].step == "adam" else {}
    return Config.for_algorithm(algo, **{**TINY, **passes, **changes})


@functools.cache
def trained(algo: str) -> rlkit_es.Algorithm:
    """After two iterations on Pong."""
    trainer = Trainer(configure(algo))
    trainer.train(32)
    trainer.close()
    return ALGORITHMS[algo].of(trainer)


def frames(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, 4, 84, 84), dtype=np.uint8)


def differing(one: Checkpoint, other: Checkpoint) -> list[str]:
    assert one.tensors.keys() == other.tensors.keys()
    return [name for name, x in one.tensors.items() if not torch.equal(x, other.tensors[name])]


@pytest.mark.parametrize("algo", ["espo", "trpo"])
def test_what_was_loaded_predicts_bitwise_as_what_was_saved(algo: str, tmp_path: Path) -> None:
    agent = trained(algo)
    loaded = rlkit_es.load(agent.save(tmp_path / "model"))
    assert type(loaded) is type(agent)
    assert loaded.spaces == agent.spaces
    assert loaded.spaces.observation == ObservationSpec((4, 84, 84))
    assert differing(take_checkpoint(loaded._trainer), take_checkpoint(agent._trainer)) == []
    seen = frames(20)
    assert np.array_equal(loaded.predict(seen), agent.predict(seen))
    with torch.no_grad():
        pictures = torch.from_numpy(seen)
        for mine, theirs in zip(
            loaded.policy.evaluate(pictures), agent.policy.evaluate(pictures), strict=True
        ):
            assert torch.equal(mine, theirs)


def test_predictions_are_actions_for_one_picture_or_a_batch_of_them() -> None:
    agent, seen = trained("espo"), frames(5)
    actions = agent.predict(seen)
    assert actions.shape == (5,)
    assert np.issubdtype(actions.dtype, np.integer)
    assert [int(agent.predict(one)) for one in seen] == actions.tolist()
    assert np.shape(agent.predict(seen[0])) == ()
    sampled = agent.predict(np.repeat(seen[:1], 50, 0), deterministic=False)
    assert 1 < len(set(sampled.tolist())) <= 6


@pytest.mark.parametrize(
    "shape",
    [(84, 84, 4), (84, 84), (3, 84, 84), (2, 84, 84, 4), (1, 2, 4, 84, 84), (28_224,), (), (4, 84, 85)],
)
def test_a_picture_of_another_shape_is_refused_by_the_shape_that_is_wanted(shape: tuple[int, ...]) -> None:
    wanted = re.escape(f"(4, 84, 84) or (N, 4, 84, 84), got {shape}")
    with pytest.raises(UserError, match=rf"^[^\n]*{wanted}$"):
        trained("espo").predict(np.zeros(shape, np.uint8))


class StoppedError(Exception):
    pass


class StopAt(Callback):
    def __init__(self, iteration: int) -> None:
        self.left = iteration

    def on_iteration(self, *_: object) -> None:
        self.left -= 1
        if not self.left:
            raise StoppedError


@pytest.mark.parametrize(
    ("algo", "changes"), [("espo", {}), ("trpo", {}), ("sd_ppo", {"share_encoder": False})]
)
def test_a_run_that_was_stopped_and_goes_on_ends_bitwise_as_one_that_was_not(
    algo: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "plot_learning_curve", lambda metrics, evaluation, path: path.touch())
    # Iterations of 16 steps, two a segment.
    settings = {"total_steps": 48, "checkpoint_every": 32, "learning_rate": 1e-3, **changes}

    def begin(name: str, *stops: Callback) -> Trainer:
        trainer = Trainer(configure(algo, run_dir=tmp_path / name, **settings))
        try:
            experiment.run(trainer, 48, progress=False, callbacks=stops)
        finally:
            trainer.close()
        return trainer

    whole = begin("whole")
    with pytest.raises(StoppedError):
        begin("stopped", StopAt(3))
    saved = resume.open_run(tmp_path / "stopped")
    assert saved.checkpoint.state["progress"]["env_steps"] == 32
    trainer, said = resume.continued(saved, {})
    assert said == saved.warnings == []
    experiment.go_on(trainer, progress=False)
    trainer.close()
    one, other = take_checkpoint(trainer), take_checkpoint(whole)
    assert one.state["progress"]["env_steps"] == other.state["progress"]["env_steps"] == 48
    assert differing(one, other) == []
    moved = differing(one, saved.checkpoint)
    assert "policy.actor.network.encoder.network.weight_0" in moved
    last = {path.name: read_checkpoint(path) for path in (tmp_path / "stopped/checkpoints").glob("step-*")}
    assert differing(last[max(last)], one) == []


@functools.cache
def taken() -> Checkpoint:
    return take_checkpoint(trained("espo")._trainer)


@pytest.mark.parametrize(
    "shape",
    [
        *([4, 20, 20], [4, 0, 84], [4, 35, 84], [0, 84, 84], [0, 0, 0], [1, 84, 84], [4, 36, 36]),
        *([4, 84, 2**31 - 1], [4, 2**31 - 1, 84], [2**31 - 1, 84, 84], [2**31 - 1] * 3, [2**31, 84, 84]),
        *([4, 84], [28_224], [], [4, 84, 84, 1], [-4, 84, 84], [4.0, 84, 84], ["4", 84, 84], [10**400] * 3),
    ],
    ids=lambda shape: str(shape)[:30],
)
def test_a_file_that_claims_another_picture_is_refused_soon_and_in_one_line(
    shape: list[Any], tmp_path: Path
) -> None:
    state = {**json.loads(json.dumps(taken().state)), "observation": shape}
    file = tmp_path / "model.safetensors"
    write_checkpoint(file, Checkpoint(taken().tensors, state))
    begun = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        rlkit_es.load(file)
    assert time.perf_counter() - begun < 3


@pytest.mark.parametrize(
    "settings",
    [
        {"encoder": "of_mine"},
        {"encoder": None},
        {"precision": "float16"},
        {"share_encoder": False},
        {"share_encoder": "yes"},
        {"sticky_actions": 2},
        {"episodic_life": 1},
        {"hidden_sizes": [10**6, 10**6]},
        {"hidden_sizes": [64]},
    ],
    ids=str,
)
def test_a_file_whose_settings_do_not_fit_its_pictures_is_refused_in_one_line(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    state = json.loads(json.dumps(taken().state))
    state["config"] |= settings
    file = tmp_path / "model.safetensors"
    write_checkpoint(file, Checkpoint(taken().tensors, state))
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        rlkit_es.load(file)


def test_learning_goes_on_from_a_file(tmp_path: Path) -> None:
    file, ends = trained("espo").save(tmp_path / "model"), []
    for _ in range(2):
        agent = rlkit_es.load(file)
        agent.learn(16)
        agent.close()
        ends.append(take_checkpoint(agent._trainer))
    assert differing(*ends) == []
    assert "policy.critic.network.weight_0" in differing(ends[0], read_checkpoint(file))
