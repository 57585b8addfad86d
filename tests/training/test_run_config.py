from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlkit_es.envs.registry import usable_cores
from rlkit_es.errors import UserError
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.models.encoders import ENCODERS
from rlkit_es.models.networks import MLP, NETWORKS
from rlkit_es.runs.experiment import run
from rlkit_es.runs.run_description import describe_run
from rlkit_es.runs.run_records import RunRecord
from rlkit_es.training.callbacks import Hooks
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer

SPEED = ("wall_seconds", "steps_per_second")
OWN_FIELDS = {f.name for f in dataclasses.fields(Config)} - {f.name for f in dataclasses.fields(UpdateConfig)}

# A value for every field that decides what is learned, other than that of `base`.
ALTERNATIVES: dict[str, Any] = {
    "algo": "espo",
    "env": "MountainCarContinuous-v0",
    "env_kwargs": {"g": 5.0},
    "total_steps": 300,
    "seed": 1,
    "num_envs": 5,
    "rollout_steps": 33,
    "gamma": 0.9,
    "horizon_growth": 3.0,
    "gae_lambda": 0.5,
    "hidden_sizes": (8, 9),
    "critic_hidden_sizes": (8, 9),
    "activation": "relu",
    "log_std_init": 0.0,
    "normalize_observations": False,
    "observation_clip": 0.1,
    "normalize_rewards": False,
    "reward_clip": 0.01,
    "scale_actions": False,
    "backend": "gymnasium",
    "checkpoint_every": 128,
    "network": "narrow",
}
# The same of `atari`, for what says nothing elsewhere.
ALTERNATIVES_OF_PICTURES: dict[str, Any] = {
    "encoder": "blurred",
    "share_encoder": False,
    "precision": "bfloat16",
    "sign_rewards": True,
    "episodic_life": False,
    "sticky_actions": 0.9,
}


class Blurred(nn.Module):
    """16 numbers of a picture, each a mean of neighbours."""

    def __init__(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, picture: Tensor) -> Tensor:
        mean = nn.functional.adaptive_avg_pool2d(picture.float().mean(1, keepdim=True) / 255, 4)
        return self.gain * mean.flatten(1)


@pytest.fixture(autouse=True, scope="module")
def _others_of_ones_own() -> Iterator[None]:
    NETWORKS["narrow"] = lambda sizes, activation, gain, generator: MLP(
        (sizes[0], 2, sizes[-1]), activation, gain, generator
    )
    ENCODERS["blurred"] = Blurred
    yield
    del NETWORKS["narrow"], ENCODERS["blurred"]


def base(**settings: Any) -> Config:
    small = {"env": "Pendulum-v1", "total_steps": 256, "num_envs": 4, "rollout_steps": 32}
    fast = {"minibatch_size": 32, "epochs": 2, "hidden_sizes": (8, 8), "compile": "off"}
    settings = {**small, **fast, "eval_episodes": 0, **settings}
    return Config(**{"algo": "ppo", "deviation_threshold": 1e-6, **settings})


def atari(**settings: Any) -> Config:
    """One iteration of a game in which with this seed a life is lost, and 20 points are made."""
    game = {"env": "ALE/Asteroids-v5", "seed": 6, "precision": "float32", "normalize_rewards": False}
    small = {"num_envs": 2, "rollout_steps": 40, "minibatch_size": 40, "epochs": 1, "total_steps": 80}
    return base(**{**game, **small, **settings})


class History:
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log(self, metrics: dict[str, float]) -> None:
        self.rows.append({k: v for k, v in metrics.items() if k not in SPEED})

    def close(self) -> None: ...


def outcome(config: Config) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    trainer, history = Trainer(config), History()
    trainer.train(config.total_steps, Hooks([history]))
    trainer.close()
    return history.rows, trainer.policy.state_dict()


def differs(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() != b.keys() or any(not torch.equal(x, b[name]) for name, x in a.items())


@pytest.fixture(scope="module")
def base_outcome() -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    return outcome(base())


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_a_field_of_the_run_changes_what_is_learned(name: str, base_outcome: tuple) -> None:
    if name == "backend":
        pytest.importorskip("envpool")
    config = base(**{name: ALTERNATIVES[name]})
    assert getattr(config, name) != getattr(base(), name)
    rows, parameters = outcome(config)
    assert rows != base_outcome[0]
    assert differs(parameters, base_outcome[1])


@pytest.fixture(scope="module")
def atari_outcome() -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    return outcome(atari())


@pytest.mark.parametrize("name", ALTERNATIVES_OF_PICTURES)
def test_a_field_of_pictures_or_of_atari_changes_what_is_learned_there(
    name: str, atari_outcome: tuple
) -> None:
    config = atari(**{name: ALTERNATIVES_OF_PICTURES[name]})
    assert getattr(config, name) != getattr(atari(), name)
    _, parameters = outcome(config)
    assert differs(parameters, atari_outcome[1])


@pytest.mark.parametrize("name", sorted(set(ALTERNATIVES_OF_PICTURES) - {"sign_rewards", "sticky_actions"}))
def test_elsewhere_it_changes_nothing(name: str, base_outcome: tuple) -> None:
    _, parameters = outcome(base(**{name: ALTERNATIVES_OF_PICTURES[name]}))
    assert not differs(parameters, base_outcome[1])


def check_torch_threads(config: Config) -> None:
    for asked, threads in ((2, 2), (0, usable_cores())):
        trainer = Trainer(dataclasses.replace(config, torch_threads=asked))
        trainer.train(1)
        assert torch.get_num_threads() == threads
        trainer.close()


def check_env_threads(config: Config) -> None:
    pytest.importorskip("envpool")
    for threads in (1, 4):
        trainer = Trainer(dataclasses.replace(config, env_threads=threads, env_groups=1))
        trainer.begin_segment()
        assert trainer.envs[0]._pool.config["num_threads"] == threads
        trainer.close()


def check_env_groups(config: Config) -> None:
    pytest.importorskip("envpool")
    for groups in (1, 2, 3):
        assert len(Trainer(dataclasses.replace(config, env_groups=groups)).envs) == groups


def check_run_dir(config: Config) -> None:
    for directory in (Path("one"), Path("two/deep")):
        run(Trainer(dataclasses.replace(config, run_dir=directory)), 1, progress=False)
        assert (directory / "metrics.csv").exists()


def check_eval_episodes(config: Config) -> None:
    for episodes in (0, 2):
        directory = Path(f"episodes{episodes}")
        config = dataclasses.replace(config, run_dir=directory, eval_episodes=episodes)
        evaluation = run(Trainer(config), 1, progress=False)
        assert (evaluation is None) == (episodes == 0)
        assert (directory / "evaluation.json").exists() == (episodes > 0)
        assert evaluation is None or evaluation.episodes == episodes


def check_eval_every(config: Config) -> None:
    for every, evaluated in ((0, []), (200, [256]), (128, [128, 256]), (100_000, [])):
        history = History()
        trainer = Trainer(dataclasses.replace(config, eval_every=every, eval_episodes=1))
        trainer.train(256, Hooks([history]))
        trainer.close()
        found = [r["env_steps"] for r in history.rows if r.get("evaluation_return_mean", NAN) > -INF]
        assert found == evaluated
        assert all(("evaluation_return_std" in row) == (every > 0) for row in history.rows)


def check_keep_checkpoints(config: Config) -> None:
    for keep in (1, 3):
        directory = Path(f"kept{keep}")
        changes = {"run_dir": directory, "keep_checkpoints": keep, "checkpoint_every": config.batch_size}
        run(Trainer(dataclasses.replace(config, **changes)), 5 * config.batch_size, progress=False)
        assert len(list((directory / "checkpoints").glob("step-*"))) == keep


def check_wandb(config: Config) -> None:
    run(Trainer(dataclasses.replace(config, wandb="project")), 1, progress=False)
    assert not Path("wandb").exists()  # there is no run directory to identify it by


def check_device(config: Config) -> None:
    for device in ("auto", "cpu"):
        assert Trainer(dataclasses.replace(config, device=device)).device == torch.device("cpu")
    with pytest.raises(UserError, match="device"):
        Trainer(dataclasses.replace(config, device="cuda:99"))


def check_compile(config: Config) -> None:
    off, auto = (
        Trainer(dataclasses.replace(config, compile=mode, total_steps=100_000)) for mode in ("off", "auto")
    )
    assert describe_run(off)["update"] != describe_run(auto)["update"]


# Where, how fast and whether it is recorded must not change what is learned.
CIRCUMSTANCES: dict[str, tuple[Any, Callable[[Config], None]]] = {
    "torch_threads": (2, check_torch_threads),
    "env_threads": (1, check_env_threads),
    "env_groups": (1, check_env_groups),
    "run_dir": (Path("somewhere"), check_run_dir),
    "eval_episodes": (2, check_eval_episodes),
    "device": ("cpu", check_device),
    "compile": ("auto", check_compile),
    "eval_every": (200, check_eval_every),
    "keep_checkpoints": (5, check_keep_checkpoints),
    "wandb": ("project", check_wandb),
}


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_a_circumstance_changes_what_it_says_and_nothing_that_is_learned(
    name: str, base_outcome: tuple
) -> None:
    alternative, check = CIRCUMSTANCES[name]
    threads = torch.get_num_threads()
    try:
        check(base())
        needed = {"eval_episodes": 1} if name == "eval_every" else {}
        config = base(**{name: alternative, **needed})
        assert getattr(config, name) != getattr(base(), name)
        rows, parameters = outcome(config)
    finally:
        torch.set_num_threads(threads)
    # With other groups the networks see other numbers of rows, which rounds differently.
    tolerance = 1e-3 if name == "env_groups" else 0
    for row, expected in zip(rows, base_outcome[0], strict=True):
        shared = {name: row[name] for name in expected}  # there may be columns for evaluations
        assert shared == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True)
    for key, x in parameters.items():
        torch.testing.assert_close(x, base_outcome[1][key], rtol=tolerance, atol=tolerance)


def test_every_field_of_the_run_is_covered_here() -> None:
    covered = [*ALTERNATIVES, *ALTERNATIVES_OF_PICTURES, *CIRCUMSTANCES]
    assert sorted(covered) == sorted(OWN_FIELDS)


def test_what_makes_another_experiment_is_what_changes_what_is_learned() -> None:
    settings = {f.name: getattr(base(), f.name) for f in dataclasses.fields(Config)}
    experiment = RunRecord(Path("run"), settings, {}).experiment
    assert set(settings) - set(experiment) == {"seed", *CIRCUMSTANCES}


NAN, INF = math.nan, math.inf
NOT_COUNTS = (0, -1, 1.5, True, "10", None)
NOT_POSITIVE = (0, -1.0, NAN, "1", None, True)
NOT_FRACTIONS = (-0.1, 1.1, 2, NAN, INF, "0.9", None)
NOT_RATES = (0, -1e-3, 1.5, NAN, INF, "3e-4")
NOT_WEIGHTS = (-1e-3, -1, 1e7, NAN, INF, "0.1", None, True)

NOT_SIZES = ((0,), (64, -1), (64.0,), ("64",), (True,), 64, "64")
BAD_VALUES: dict[str, tuple[Any, ...]] = {
    "algo": ("pp", "", "PPO2"),
    "env": (3, None),
    "env_kwargs": ("g=5", '{"g": 5}', 3, None, True, ["g"]),
    "total_steps": NOT_COUNTS,
    "seed": (-1, 0.5, "0", None),
    "num_envs": NOT_COUNTS,
    "rollout_steps": NOT_COUNTS,
    "gamma": NOT_FRACTIONS,
    "horizon_growth": (0.99, 0.0, -1.0, float("nan"), float("inf"), "2", None, True),
    "gae_lambda": NOT_FRACTIONS,
    "network": ("mpl", "", None, 3),
    "hidden_sizes": (*NOT_SIZES, None),
    "critic_hidden_sizes": NOT_SIZES,
    "activation": ("gelu", "", None, 3),
    "log_std_init": (NAN, INF, -100, 100, "0", None),
    "normalize_observations": ("no", None),
    "observation_clip": NOT_POSITIVE,
    "normalize_rewards": ("no", None),
    "reward_clip": NOT_POSITIVE,
    "scale_actions": ("no", None),
    "encoder": ("nature", "", None, 3),
    "share_encoder": ("yes", 1, 0.5),
    "precision": ("half", "float16", None, 32),
    "sign_rewards": ("no", None, 1),
    "episodic_life": ("no", None, 0),
    "sticky_actions": NOT_FRACTIONS,
    "eval_episodes": (-1, 1.5, None),
    "eval_every": (-1, 1.5, True, None),
    "checkpoint_every": (-1, 1.5, True, "10"),
    "keep_checkpoints": NOT_COUNTS,
    "wandb": (3, True),
    "run_dir": (3,),
    "device": (3, None),
    "backend": ("envpol", "", None),
    "torch_threads": (-1, 1.5, True, "10", None, 1025),
    "env_threads": (-1, 1.5, None),
    "env_groups": NOT_COUNTS,
    "compile": ("yes", True, None),
    "minibatch_size": NOT_COUNTS,
    "epochs": NOT_COUNTS,
    "critic_epochs": (0, -1, 1.5, True, "10"),
    "recompute_advantages": ("no", None, 1),
    "common_gradient": (-0.1, 1.1, NAN, "0.1", None, True),
    "learning_rate": (*NOT_RATES, None),
    "critic_learning_rate": NOT_RATES,
    "log_std_learning_rate": NOT_RATES,
    "learning_rate_schedule": ("cosine", "adaptive", None),
    "adam_epsilon": (*NOT_RATES, None),
    "max_grad_norm": NOT_POSITIVE,
    "value_coefficient": NOT_WEIGHTS,
    "entropy_coefficient": NOT_WEIGHTS,
    "advantage_normalization": ("both", None),
    "surrogate": ("clipped", "ratio_minus", 3),
    "mask": ("keep", True),
    "stop": ("kl", ""),
    "constraint": ("variance", "", 0.1),
    "clip_range": (0, -0.2, 1, NAN, None),
    "dropout_threshold": NOT_POSITIVE,
    "dropout_rate": NOT_POSITIVE,
    "dropout_kl": NOT_POSITIVE,
    "mask_at": ("later", "", None),
    "mask_value": ("no", 1, None),
    "deviation_threshold": NOT_POSITIVE,
    "deviation_threshold_schedule": ("cosine", "adaptive_kl", None),
    "deviation_statistic": ("mode", None),
    "stop_when": ("during", None),
    "max_kl": NOT_POSITIVE,
    "max_kl_schedule": ("cosine", "adaptive_kl", None),
    "constraint_limit": NOT_POSITIVE,
    "dual_learning_rate": NOT_WEIGHTS,
    "initial_penalty": NOT_WEIGHTS,
    "cg_iterations": NOT_COUNTS,
    "cg_damping": NOT_WEIGHTS,
    "line_search_steps": NOT_COUNTS,
    "line_search_shrink": (0, -0.5, 1, 1.5, NAN, INF, "0.8", None, True),
    "fisher_fraction": (0, -0.1, 1.1, NAN, INF, "0.2", None, True),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values]
)
def test_a_bad_value_is_refused_in_one_line_that_names_the_field(name: str, value: Any) -> None:
    with pytest.raises(UserError) as refused:
        Config(**{"algo": "ppo", name: value})
    message = str(refused.value)
    assert "\n" not in message
    assert ("algorithm" if name == "algo" else name) in message
    assert repr(value) in message


def test_every_field_has_a_bad_value_here() -> None:
    assert set(BAD_VALUES) == {f.name for f in dataclasses.fields(Config)}


# What only one kind of step reads, with a value that is not the default.
ONLY_ADAM = {
    "epochs": 5,
    "entropy_coefficient": 0.01,
}
ONLY_NATURAL = {
    "max_kl_schedule": "linear",
    "cg_iterations": 5,
    "cg_damping": 0.2,
    "line_search_steps": 3,
    "line_search_shrink": 0.5,
    "fisher_fraction": 0.5,
}
ONLY_STOPPED = {"deviation_threshold_schedule": "linear"}
ONLY_CONSTRAINED = {"constraint_limit": 0.2, "dual_learning_rate": 0.2, "initial_penalty": 0.0}


@pytest.mark.parametrize("algo", RECIPES)
def test_what_cannot_have_an_effect_is_refused_and_the_rest_is_taken(algo: str) -> None:
    natural, constrained = RECIPES[algo].step == "natural", RECIPES[algo].constraint != "none"
    for settings, used in (
        (ONLY_ADAM, not natural),
        (ONLY_NATURAL, natural),
        (ONLY_CONSTRAINED, constrained),
        (ONLY_STOPPED, RECIPES[algo].stop == "ratio_deviation"),
    ):
        for name, value in settings.items():
            if used:
                assert getattr(Config.for_algorithm(algo, **{name: value}), name) == value
            else:
                with pytest.raises(UserError, match=rf"^{name} has no effect ") as refused:
                    Config.for_algorithm(algo, **{name: value})
                assert "\n" not in str(refused.value)


OF_SLOTS = {  # the recipes that read it
    "clip_range": (0.1, {"ppo", "sd_ppo", "spo", "ppo_adaptive"}),
    "dropout_rate": (2.0, set()),
    "dropout_kl": (0.1, {"sd_trpo"}),
    "deviation_threshold": (0.1, {"espo", "sd_espo"}),
    "deviation_statistic": ("median", {"espo", "sd_espo"}),
    "stop_when": ("before", {"espo", "sd_espo"}),
    "max_kl": (0.05, {"trpo", "sd_trpo", "ppo_adaptive"}),
}


@pytest.mark.parametrize("name", OF_SLOTS)
@pytest.mark.parametrize("algo", RECIPES)
def test_what_no_slot_reads_is_refused_where_it_is_given(algo: str, name: str) -> None:
    value, readers = OF_SLOTS[name]
    if algo in readers:
        assert getattr(Config.for_algorithm(algo, **{name: value}), name) == value
        return
    with pytest.raises(UserError, match=rf"^{name} has no effect on ") as refused:
        Config.for_algorithm(algo, **{name: value})
    assert "\n" not in str(refused.value)
    usual = getattr(Config.for_algorithm(algo), name)
    assert getattr(Config.for_algorithm(algo, **{name: usual}), name) == usual


@pytest.mark.parametrize(
    ("algo", "settings"),
    [
        ("ppo", {"max_kl": 0.05, "stop": "mean_kl"}),
        ("ppo", {"max_kl": 0.05, "learning_rate_schedule": "adaptive_kl"}),
        ("ppo", {"max_kl": 0.05, "dropout_rate": 2.0, "mask": "kl_below"}),
        ("sd_trpo", {"dropout_rate": 2.0, "mask": "kl_below"}),
        ("espo", {"clip_range": 0.1, "surrogate": "clip"}),
        ("ppo", {"deviation_threshold": 0.1, "stop": "ratio_deviation", "stop_when": "before"}),
    ],
)
def test_what_a_slot_reads_is_taken_with_that_slot(algo: str, settings: dict[str, Any]) -> None:
    config = Config.for_algorithm(algo, **settings)
    assert {name: getattr(config, name) for name in settings} == settings


def test_the_defaults_of_an_environment_need_not_be_read() -> None:
    config = Config.for_algorithm("espo", env="ALE/Pong-v5")
    assert config.clip_range == Config.for_algorithm("ppo", env="ALE/Pong-v5").clip_range == 0.1


@pytest.mark.parametrize("algo", RECIPES)
def test_the_recipe_is_changed_by_naming_another_slot(algo: str) -> None:
    config = Config.for_algorithm(algo, surrogate="ratio_minus_one", mask="keep_all", stop="never")
    assert (config.surrogate, config.mask, config.stop) == ("ratio_minus_one", "keep_all", "never")
    if RECIPES[algo].step == "adam":
        assert Config.for_algorithm(algo, constraint="kl", constraint_limit=0.01).constraint == "kl"


@pytest.mark.parametrize("algo", RECIPES)
def test_the_defaults_of_every_algorithm_are_valid(algo: str) -> None:
    config = Config.for_algorithm(algo)
    assert config.algo == algo
    assert {name: getattr(config, name) for name in RECIPES[algo].defaults} == RECIPES[algo].defaults
    assert config.batch_size == config.num_envs * config.rollout_steps >= config.minibatch_size
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.gamma = 0.5


@pytest.mark.parametrize("algo", RECIPES)
def test_the_default_minibatch_is_the_batch_where_that_is_smaller(algo: str) -> None:
    assert Config.for_algorithm(algo, num_envs=1, rollout_steps=32).minibatch_size == 32
    game = {"env": "ALE/Pong-v5", "num_envs": 1, "rollout_steps": 100}
    assert Config.for_algorithm(algo, **game).minibatch_size == 100


def test_evaluations_without_episodes_are_refused() -> None:
    with pytest.raises(UserError, match=r"eval_every needs episodes.*eval_episodes"):
        Config(algo="ppo", eval_every=100, eval_episodes=0)


def test_a_minibatch_larger_than_the_batch_is_refused() -> None:
    assert Config(algo="ppo", num_envs=4, rollout_steps=8).minibatch_size == 32
    assert Config(algo="ppo", num_envs=64, rollout_steps=8).minibatch_size == 256
    assert Config(algo="ppo", num_envs=4, rollout_steps=8, minibatch_size=32).batch_size == 32
    with pytest.raises(UserError, match=r"minibatch_size 33 .*batch of 32 .*num_envs 4 x rollout_steps 8"):
        Config(algo="ppo", num_envs=4, rollout_steps=8, minibatch_size=33)


@pytest.mark.parametrize(
    ("settings", "moves"),
    [
        ({}, False),
        ({"learning_rate_schedule": "linear"}, True),
        ({"horizon_growth": 2.0}, True),
        ({"horizon_growth": 2.0, "gamma": 1.0}, False),
        ({"deviation_threshold_schedule": "linear"}, True),
    ],
    ids=str,
)
def test_what_moves_linearly_moves_to_the_end(settings: dict[str, Any], moves: bool) -> None:
    config = Config(**{"algo": "espo", "learning_rate_schedule": "constant", **settings})
    assert config.moves_to_the_end is moves


def test_a_recipe_whose_horizon_grows_takes_a_gamma_of_one() -> None:
    assert Config.for_algorithm("trpo", gamma=1.0).horizon_growth == 2


@pytest.mark.parametrize(
    ("wrong", "right"), [("gama", "gamma"), ("lerning_rate", "learning_rate"), ("num_env", "num_envs")]
)
def test_a_misspelt_setting_names_the_closest(wrong: str, right: str) -> None:
    with pytest.raises(UserError, match=rf"unknown setting '{wrong}'; did you mean .*{right}"):
        Config.for_algorithm("ppo", **{wrong: 1})


@pytest.mark.parametrize(
    ("other", "here"),
    [
        *[("lr", "learning_rate"), ("n_steps", "rollout_steps"), ("policy_kwargs", "hidden_sizes")],
        ("critic_hidden_dims", "critic_hidden_sizes"),
    ],
)
def test_a_setting_of_another_library_is_told_what_it_is_called_here(other: str, here: str) -> None:
    with pytest.raises(UserError, match=rf"unknown setting '{other}'; here it is {here}"):
        Config.for_algorithm("ppo", **{other: 1})


def test_a_whole_float_is_told_to_be_written_whole() -> None:
    with pytest.raises(
        UserError, match=r"total_steps must be a whole number .*, got 1000000.0: write 1000000$"
    ):
        Config.for_algorithm("ppo", total_steps=1e6)


def test_an_unknown_algorithm_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"unknown algorithm 'esp'; did you mean espo"):
        Config.for_algorithm("esp")


def test_overrides_win_over_the_recipe() -> None:
    config = Config.for_algorithm("espo", deviation_threshold=0.1, num_envs=8)
    assert (config.deviation_threshold, config.num_envs) == (0.1, 8)
    config = Config.for_algorithm("trpo", max_kl=0.005)
    assert (config.max_kl, config.learning_rate) == (0.005, 1e-3)


def test_lists_and_strings_are_taken_for_tuples_and_paths() -> None:
    config = Config.for_algorithm("ppo", hidden_sizes=[8, 8], run_dir="runs/mine")
    assert config.hidden_sizes == (8, 8)
    for sizes in (np.array([8, 8]), [np.int64(8), 8], (np.int32(8), 8)):
        numbers = Config.for_algorithm("ppo", hidden_sizes=sizes).hidden_sizes
        assert numbers == (8, 8)
        assert {type(number) for number in numbers} == {int}
    assert config.run_dir == Path("runs/mine")
    assert Config.for_algorithm("ppo", critic_hidden_sizes=[4]).critic_hidden_sizes == (4,)


@pytest.mark.parametrize(
    ("env", "num_envs", "each"),
    [("Walker2d-v4", 8, 31_250), ("Walker2d-v4", 64, 4_000), ("ALE/Pong-v5", 64, 27_000)],
)
def test_between_checkpoints_every_environment_has_room_for_whole_episodes(
    env: str, num_envs: int, each: int
) -> None:
    assert Config.for_algorithm("ppo", env=env, num_envs=num_envs).segment_steps == each * num_envs
