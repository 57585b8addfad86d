"""The benchmark suites: which recipes, in which variants, on which environments, for how long."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial

from rlkit_es.errors import UserError, look_up, suggestion

Pair = tuple[str, str]  # what is said to be better, and than what

_DROPOUT_PAIRS: tuple[Pair, ...] = (("sd_ppo", "ppo"), ("sd_trpo", "trpo"), ("sd_espo", "espo"))


@dataclass(frozen=True)
class Variant:
    """A recipe, perhaps with other settings than its own."""

    name: str
    algo: str
    settings: tuple[str, ...] = ()  # arguments of ``python -m rlkit_es.run``


@dataclass(frozen=True)
class Suite:
    """A grid of variants and environments."""

    variants: tuple[Variant, ...]
    envs: tuple[str, ...]
    seeds: int
    total_steps: int
    settings: tuple[str, ...] = field(default=())  # of every run
    pairs: tuple[Pair, ...] = ()  # of variants, to compare; none: variants are single changes
    title: str = ""  # of its section in docs/results.md
    remark: str = ""  # below the title, or instead of results where there are none
    updates_title: str = "What dropout changes"
    updates_of_all: bool = False  # whether what updates do is shown of every variant, or of pairs alone


def plain(*algos: str) -> tuple[Variant, ...]:
    """Recipes as they are."""
    return tuple(Variant(algo, algo) for algo in algos)


def parse_variant(text: str) -> Variant:
    """Of ``name=algo --argument value ...``.

    Raises:
        UserError: it is not of this form.
    """
    name, _, rest = text.partition("=")
    algo, *settings = shlex.split(rest) or [""]
    if not re.fullmatch(r"\w[\w.-]*", name) or not algo or algo.startswith("-"):
        raise UserError(f"--variant must be 'name=algo --argument value ...', got {text!r}")
    return Variant(name, algo, tuple(settings))


def _changes(algo: str, changes: Mapping[str, str]) -> tuple[Variant, ...]:
    """The recipe as it is, and with one change at a time."""
    return (*plain(algo), *_changed(algo, changes))


def _changed(algo: str, changes: Mapping[str, str]) -> tuple[Variant, ...]:
    """The recipe with one change at a time."""
    return tuple(
        Variant(f"{algo}-{name}", algo, tuple(shlex.split(settings))) for name, settings in changes.items()
    )


_RECIPES = plain("ppo", "trpo", "espo", "sd_ppo", "sd_trpo", "sd_espo")

_MUJOCO = (
    *("Ant-v4", "HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Humanoid-v4", "Swimmer-v4"),
    *("Reacher-v4", "InvertedPendulum-v4", "InvertedDoublePendulum-v4"),
)
_DM_CONTROL = (
    *("cartpole-swingup", "reacher-easy", "finger-spin", "cheetah-run", "walker-walk", "walker-run"),
    *("hopper-stand", "quadruped-walk", "humanoid-run", "dog-run"),
)
_ATARI = ("Pong", "Breakout", "BeamRider", "Alien", "Amidar")

_STOPPING = {
    "threshold_0.1": "--deviation-threshold 0.1",
    "threshold_0.5": "--deviation-threshold 0.5",
    "threshold_linear": "--deviation-threshold-schedule linear",
    "median": "--deviation-statistic median",
    "before": "--stop-when before",
    "critic_stops_too": "--critic-epochs None",
    "critic_5": "--critic-epochs 5",
    "critic_20": "--critic-epochs 20",
}


# The same batch, of pieces of trajectories of other lengths.
_64_ENVS = "--num-envs 64 --rollout-steps 32"
_32_ENVS = "--num-envs 32 --rollout-steps 64"
_16_ENVS = "--num-envs 16 --rollout-steps 128"
_8_ENVS = "--num-envs 8 --rollout-steps 256"

# As all recipes were before the horizon of some grew.
_ONE_HORIZON = "--horizon-growth 1 --gae-lambda 0.95"
# And before their present rollouts.
_ROLLOUTS_BEFORE = f"{_64_ENVS} {_ONE_HORIZON}"
_CLIPPED_BEFORE = f"{_ROLLOUTS_BEFORE} --log-std-learning-rate 1e-4"


def _before(*more: str, policy: str, critic: str, log_std: str, recomputed: bool = False) -> str:
    """Every rate, and whether advantages are recomputed, whatever the defaults are by now; and ``more``."""
    rates = f"--learning-rate {policy} --critic-learning-rate {critic} --log-std-learning-rate {log_std}"
    return " ".join([rates, "--recompute-advantages" if recomputed else "--no-recompute-advantages", *more])


def _by_rate(rate: int) -> str:
    """SD-TRPO's limit shrinks with the trust region, as it was before."""
    return f"--mask kl_below --dropout-rate {rate}"


# As the recipes were before their present rates.
_ppo_before = partial(_before, _ROLLOUTS_BEFORE, policy="3e-4", critic="None", log_std="None")
_espo_before = partial(_before, policy="1e-4", critic="3e-4", log_std="5e-4")

# Of 1 / sqrt(number of actions): on Hopper, on HalfCheetah and Walker2d, on Humanoid.
_NOISE_BY_ACTIONS = {
    "log_std_-0.55": "--log-std-init -0.5493061443340549",
    "log_std_-0.9": "--log-std-init -0.8958797346140275",
    "log_std_-1.42": "--log-std-init -1.416606672028108",
}

_AS_TRPO = f"{_16_ENVS} --horizon-growth 2 --gae-lambda 0.9"
_CONSTANT_RATE = "--learning-rate-schedule constant"

# What the defaults are chosen from; the environments that are not among these judge the choice.
_PPO_CHOICES = {
    "one_rate": _ppo_before(),
    "log_std_-0.5": _ppo_before("--log-std-init -0.5"),
    "gamma_0.995": _ppo_before("--gamma 0.995"),
    "rate_5e-4": _ppo_before("--learning-rate 5e-4"),
    "minibatch_128": _ppo_before("--minibatch-size 128"),
    "minibatch_128_slow_log_std_rate": _ppo_before("--minibatch-size 128", log_std="1e-4"),
    "minibatch_64": _ppo_before("--minibatch-size 64"),
    "minibatch_64_log_std_-0.5": _ppo_before("--minibatch-size 64 --log-std-init -0.5"),
    "minibatch_64_log_std_-1": _ppo_before("--minibatch-size 64 --log-std-init -1"),
    "slow_log_std_rate": _ppo_before(log_std="1e-4"),
    "recomputed": _ppo_before(recomputed=True),
    "recomputed_slow_log_std_rate": _ppo_before(log_std="1e-4", recomputed=True),
    "recomputed_slow_log_std_rate_minibatch_128": _ppo_before(
        "--minibatch-size 128", log_std="1e-4", recomputed=True
    ),
    "recomputed_critic_1e-3": _ppo_before(critic="1e-3", recomputed=True),
    **{
        f"with_{name}": f"{_CLIPPED_BEFORE} {settings}"
        for name, settings in {
            **_NOISE_BY_ACTIONS,
            "minibatch_128": "--minibatch-size 128",
            "log_std_-0.5": "--log-std-init -0.5",
            "log_std_-1": "--log-std-init -1",
            "log_std_-1.4": "--log-std-init -1.4",
            "gamma_0.995": "--gamma 0.995",
            "gamma_0.999": "--gamma 0.999",
            "lambda_0.9": "--gae-lambda 0.9",
            "lambda_0.98": "--gae-lambda 0.98",
            "gamma_0.995_lambda_0.98": "--gamma 0.995 --gae-lambda 0.98",
            "32_envs": _32_ENVS,
            "16_envs": _16_ENVS,
            "value_coefficient_0.02": "--value-coefficient 0.02",
            "no_gradient_bound": "--max-grad-norm inf",
            "constant_rate": _CONSTANT_RATE,
            "advantages_once": "--no-recompute-advantages",
        }.items()
    },
    "64_envs": _CLIPPED_BEFORE,
    "64_envs_on_another_cpu": _CLIPPED_BEFORE,  # where arithmetic rounds otherwise
    "log_std_rate_1e-4": "--log-std-learning-rate 1e-4",
    "log_std_rate_2e-4": "--log-std-learning-rate 2e-4",
}
_TRPO_CHOICES = {
    "one_horizon": _ONE_HORIZON,
    "64_envs": _ROLLOUTS_BEFORE,
    **{
        name: f"{_ROLLOUTS_BEFORE} {settings}"
        for name, settings in {
            **_NOISE_BY_ACTIONS,
            "log_std_-0.5": "--log-std-init -0.5",
            "log_std_-1": "--log-std-init -1",
            "kl_0.03_log_std_-1": "--max-kl 0.03 --log-std-init -1",
            "kl_0.02": "--max-kl 0.02",
            "kl_0.02_log_std_-0.5": "--max-kl 0.02 --log-std-init -0.5",
            "kl_0.02_constant_log_std_-0.5": "--max-kl 0.02 --max-kl-schedule constant --log-std-init -0.5",
            "gae_0.9": "--gae-lambda 0.9",
            "width_128": "--hidden-sizes 128 128",
            "gamma_0.995": "--gamma 0.995",
        }.items()
    },
    "32_envs": f"{_32_ENVS} {_ONE_HORIZON}",
    "8_envs": f"{_8_ENVS} {_ONE_HORIZON}",
    "lambda_0.95": "--gae-lambda 0.95",
    "lambda_0.92": "--gae-lambda 0.92",
    "horizon_growth_1": "--horizon-growth 1",
}
_ONE_RATE = {"policy": "3e-4", "log_std": "3e-4"}
_AS_PPO = "--learning-rate 3e-4 --log-std-learning-rate 1e-4"  # as it was before its horizon grew
_ESPO_CHOICES = {
    "critic_3e-4": _espo_before(),
    "rate_3e-4": _espo_before(**_ONE_RATE),
    "rate_3e-4_minibatch_64": _espo_before("--minibatch-size 64", **_ONE_RATE),
    "rate_3e-4_log_std_-0.5": _espo_before("--log-std-init -0.5", **_ONE_RATE),
    "rate_3e-4_log_std_rate_1e-3": _espo_before(policy="3e-4", log_std="1e-3"),
    "slow_log_std_rate": _espo_before(critic="1e-3", log_std="1e-4"),
    "large_minibatches": _espo_before(
        "--minibatch-size 512 --epochs 20 --critic-epochs 20", critic="1e-3", log_std="1e-3"
    ),
    "as_ppo": _AS_PPO,
    "common_gradient_0": "--common-gradient 0",
    "as_trpo": _AS_TRPO,
    "constant_rate": _CONSTANT_RATE,
}
_SD_ESPO_CHOICES = {
    "critic_3e-4": _espo_before(),
    "rate_3e-4": _espo_before(**_ONE_RATE),
    "recomputed": "--critic-learning-rate 3e-4",
    "as_ppo": _AS_PPO,
    "with_32_envs": _32_ENVS,
    "with_gamma_0.995": "--gamma 0.995",
    "as_trpo": _AS_TRPO,
}

_SD_TRPO_CHOICES = {
    "rate_4": _by_rate(4),
    "one_horizon": f"{_ONE_HORIZON} {_by_rate(4)}",
    "64_envs": f"{_ROLLOUTS_BEFORE} {_by_rate(4)}",
    "64_envs_rate_1": f"{_ROLLOUTS_BEFORE} {_by_rate(1)}",
    "64_envs_rate_2": f"{_ROLLOUTS_BEFORE} {_by_rate(2)}",
    "32_envs": f"{_32_ENVS} {_ONE_HORIZON} {_by_rate(4)}",
}
_ESPO_ON_DM_CONTROL = {
    "one_rate": _before(policy="3e-4", critic="None", log_std="None"),
    "as_on_mujoco": _espo_before(critic="1e-3", recomputed=True),
}
# The claim of each paper, by its own protocol.
_REFERENCE = (
    Variant("ppo-reference_espo", "ppo", ("--preset", "reference-espo")),
    Variant("espo-reference_espo", "espo", ("--preset", "reference-espo")),
    Variant("ppo-reference_sdpo", "ppo", ("--preset", "reference-sdpo")),
    Variant("sd_ppo-reference_sdpo", "sd_ppo", ("--preset", "reference-sdpo")),
    Variant("sd_espo-reference_sdpo", "sd_espo", ("--preset", "reference-sdpo")),
)
_REFERENCE_PAIRS = (
    ("espo-reference_espo", "ppo-reference_espo"),
    ("sd_ppo-reference_sdpo", "ppo-reference_sdpo"),
    # Both presets have the same settings for ESPO.
    ("sd_espo-reference_sdpo", "espo-reference_espo"),
)
_DROPOUT = {
    name: f"{_CLIPPED_BEFORE} {settings}"
    for name, settings in {
        "threshold_0.25": "--dropout-threshold 0.25",
        "threshold_1": "--dropout-threshold 1",
        "right_side": "--mask ratio_below",
        "left_side": "--mask ratio_above",
        "log_symmetric": "--mask ratio_log_symmetric",
        "at_trial": "--mask-at trial",
        "value_too": "--mask-value",
        "ratio_minus_one": "--surrogate ratio_minus_one",
    }.items()
}
_NATURAL_DROPOUT = {
    **{f"kl_{limit}": f"--dropout-kl {limit}" for limit in ("0.06", "0.12", "0.48")},
    "rate_4": _by_rate(4),
}

SUITES: Mapping[str, Suite] = {
    "mujoco": Suite(
        _RECIPES,
        _MUJOCO,
        seeds=5,
        total_steps=1_000_000,
        settings=("--eval-every", "50000"),
        pairs=_DROPOUT_PAIRS,
        title="MuJoCo",
    ),
    "dm_control": Suite(
        _RECIPES,
        tuple(f"dm_control/{task}-v0" for task in _DM_CONTROL),
        seeds=3,
        total_steps=4_000_000,
        settings=("--eval-every", "200000"),
        pairs=_DROPOUT_PAIRS,
        title="DM Control",
        remark=(
            "Outside it: [cheetah-run, finger-spin and walker-walk](environments.md#dm-control), three seeds "
            "each."
        ),
    ),
    "atari": Suite(
        _RECIPES,
        tuple(f"ALE/{game}-v5" for game in _ATARI),
        seeds=3,
        total_steps=10_000_000,
        settings=("--eval-every", "1000000"),
        pairs=_DROPOUT_PAIRS,
        title="Atari",
        remark=(
            "Outside it: [Pong](environments.md#learning-pong) and "
            "[Breakout](environments.md#learning-breakout)."
        ),
    ),
    "reference": Suite(
        _REFERENCE,
        ("HalfCheetah-v4", "Walker2d-v4"),
        seeds=5,
        total_steps=1_000_000,
        settings=("--eval-every", "50000"),
        pairs=_REFERENCE_PAIRS,
        title="The papers' own protocols",
        remark="Settings of [presets](algorithms/presets.md): one environment, 2048 steps to a batch. The "
        "papers train for 10,000,000 steps; here the learning rate falls to 0 over what is trained.",
        updates_title="What the papers change",
    ),
    "choosing": Suite(
        (
            *_changed("ppo", _PPO_CHOICES),
            *_changed("sd_ppo", {"64_envs": _CLIPPED_BEFORE}),
            *_changed("trpo", _TRPO_CHOICES),
            *_changes("espo", _ESPO_CHOICES),
            *_changes("sd_espo", _SD_ESPO_CHOICES),
            *_changed("sd_trpo", _SD_TRPO_CHOICES),
        ),
        ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4", "Swimmer-v4"),
        seeds=3,
        total_steps=1_000_000,
        settings=("--eval-every", "100000"),
        title="Choosing the defaults: one change at a time",
    ),
    "choosing_dm_control": Suite(
        _changed("espo", _ESPO_ON_DM_CONTROL),
        ("dm_control/cheetah-run-v0", "dm_control/walker-walk-v0"),
        seeds=3,
        total_steps=1_000_000,
        settings=("--eval-every", "100000"),
        title="Choosing the defaults of DM Control",
    ),
    "ablation": Suite(
        (
            *_changed("sd_ppo", {"64_envs": _CLIPPED_BEFORE, **_DROPOUT}),
            *_changes("sd_trpo", _NATURAL_DROPOUT),
            *_changes("espo", _STOPPING),
        ),
        ("Hopper-v4", "HalfCheetah-v4", "Humanoid-v4"),
        seeds=3,
        total_steps=1_000_000,
        settings=("--eval-every", "100000"),
        title="Ablations: one change at a time",
        updates_title="What each change does to an update",
        updates_of_all=True,
    ),
}


def find_suite(name: str) -> Suite:
    """The suite of that name; a UserError names the closest."""
    return look_up("suite", name, SUITES)


def select(suite: Suite, variants: Sequence[str], envs: Sequence[str]) -> Suite:
    """The part of ``suite`` whose names match the patterns (``espo*``, ``Hopper*``); none: all of it.

    Raises:
        UserError: a pattern matches nothing.
    """
    chosen = [v.name for v in suite.variants]
    kept_variants = _matching("variant", chosen, variants)
    kept_envs = _matching("environment", suite.envs, envs)
    return replace(
        suite,
        variants=tuple(v for v in suite.variants if v.name in kept_variants),
        envs=tuple(env for env in suite.envs if env in kept_envs),
    )


def in_version_5(suite: Suite) -> Suite:
    """With Gymnasium's v5 of the environments that are v4."""
    return replace(suite, envs=tuple(re.sub(r"-v4$", "-v5", env) for env in suite.envs))


def _matching(what: str, names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    matched: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise UserError(f"no {what} {pattern!r} in this suite; {suggestion(pattern, names)}")
        matched |= found
    return matched if patterns else set(names)
