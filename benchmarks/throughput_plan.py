"""Which items throughput.py measures, the rows of its table, and the bars they are held to."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from measured import Effort, atari, environments, startup, training, updates
from workers import Turn

from rlkit_es.envs.registry import usable_cores
from rlkit_es.models.encoders import Precision
from rlkit_es.training.config import Config

GROUPS = ("env", "update", "training", "startup", "atari")
ENVS = ("HalfCheetah-v4", "Humanoid-v4")
PEERS = {"ppo": "Stable-Baselines3", "trpo": "sb3-contrib"}
# How many times as fast as the peer (algorithm, environment) is to be.
FASTER_THAN_PEERS = {
    ("ppo", "HalfCheetah-v4"): 5,
    ("trpo", "HalfCheetah-v4"): 4,
    ("ppo", "Humanoid-v4"): 2,
}
# On Atari, for which part, in float32 as the peer computes.
FASTER_ON_ATARI = {"training": 1.3, "collection": 2}
SMALL = 8  # environments of the smaller measurement, and of Stable-Baselines3's


class Bar(NamedTuple):
    """What a median is held to."""

    limit: float
    at_least: bool

    def met(self, value: float) -> bool:
        """Whether ``value`` is on the right side."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table; `key` names its samples."""

    key: str
    label: str
    unit: str
    bar: Bar | None = None


@dataclass(frozen=True)
class Ratio(Row):
    """Taken round by round from two other rows."""

    numerator: str = ""
    denominator: str = ""


class Measure(Protocol):
    """What a worker runs: it hands a value for each row to ``turn``, again and again."""

    def __call__(self, turn: Turn, effort: Effort) -> None: ...


class Item(NamedTuple):
    """One worker's work."""

    rows: tuple[Row, ...]
    measure: Measure


@dataclass
class Plan:
    """Everything one call of throughput.py measures and prints."""

    items: list[Item] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)

    def add(self, measure: Measure, *rows: Row) -> None:
        """One more worker."""
        self.items.append(Item(rows, measure))

    def compare(self, label: str, numerator: str, denominator: str, bar: Bar) -> None:
        """A ratio, where both of its rows are measured."""
        if {numerator, denominator} <= {row.key for item in self.items for row in item.rows}:
            key = f"{numerator} / {denominator}"
            self.ratios.append(Ratio(key, label, "ratio", bar, numerator, denominator))


def make_plan(groups: Collection[str], peers: bool, peer_threads: int) -> Plan:
    """The rows of ``groups``, with Stable-Baselines3's among the training where ``peers`` is set."""
    plan = Plan()
    if "env" in groups:
        for env in ENVS:
            _add_environments(plan, env)
    if "update" in groups:
        _add_updates(plan)
    if "training" in groups:
        for env in ENVS:
            _add_training(plan, env, peers, peer_threads)
    if "startup" in groups:
        plan.add(
            startup.seconds_and_memory,
            Row("startup", "espo HalfCheetah-v4, start to first update", "s", Bar(12, at_least=False)),
            Row("memory", "the same run, peak memory", "GiB", Bar(1.5, at_least=False)),
        )
    if "atari" in groups:
        _add_atari(plan, peers)
    _add_ratios(plan)
    return plan


def _add_environments(plan: Plan, env: str) -> None:
    config = Config.for_algorithm("espo", env=env)
    threads = config.env_threads or usable_cores()
    for key, num_envs in (("env default", config.num_envs), ("env small", SMALL)):
        measure = partial(
            environments.ours, env=env, num_envs=num_envs, threads=threads, groups=config.env_groups
        )
        plan.add(measure, _speed(f"{key} {env}", f"{env} alone, ours, {num_envs} envs"))
    if importlib.util.find_spec("envpool") is not None:
        measure = partial(environments.envpool_step, env=env, num_envs=SMALL, threads=threads)
        plan.add(measure, _speed(f"envpool {env}", f"{env} alone, EnvPool's step, {SMALL} envs"))
    measure = partial(environments.gymnasium_sync, env=env, num_envs=SMALL)
    plan.add(measure, _speed(f"gymnasium {env}", f"{env} alone, Gymnasium SyncVectorEnv, {SMALL} envs"))


def _add_updates(plan: Plan) -> None:
    label, unit = "minibatch of 64, PPO,", "us"
    plan.add(updates.plain, Row("update plain", f"{label} eager nn.Module + torch.optim.Adam", unit))
    for compiled, name in ((False, "eager"), (True, "compiled")):
        measure = partial(updates.ours, compile_update=compiled)
        plan.add(measure, Row(f"update {name}", f"{label} ours {name}", unit))


def _add_training(plan: Plan, env: str, peers: bool, peer_threads: int) -> None:
    for algo in _compared(env):
        measure = partial(training.ours_as_sb3, algo=algo, env=env)
        plan.add(measure, _speed(f"{algo} {env}", f"{env} training, ours, {algo.upper()} as SB3 sets it"))
        if peers:
            measure = partial(training.stable_baselines3, algo=algo, env=env, torch_threads=peer_threads)
            label = f"{env} training, {PEERS[algo]} {algo.upper()}, torch threads {peer_threads}"
            plan.add(measure, _speed(f"sb3 {algo} {env}", label))
    for algo in ("ppo", "espo"):
        measure = partial(training.ours_default, algo=algo, env=env)
        plan.add(measure, _speed(f"default {algo} {env}", f"{env} training, ours, {algo.upper()} defaults"))


def _add_atari(plan: Plan, peers: bool) -> None:
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        for part, measure in (("training", atari.training), ("collection", atari.collection)):
            row = _speed(f"atari {part} {precision}", f"{atari.ENV} {part}, ours, PPO in {precision}")
            plan.add(partial(measure, precision=precision), row)
        label = f"{atari.ENV} update, ours, {precision}"
        plan.add(
            partial(atari.update, precision=precision),
            Row(f"atari update {precision}", label, "GFLOP/s"),
            Row(f"atari peak {precision}", f"product of large matrices, {precision}", "GFLOP/s"),
            Row(f"atari share {precision}", f"{label} / of the product", "ratio"),
        )
    if peers:
        row = _speed("atari training sb3", f"{atari.ENV} training, Stable-Baselines3 PPO")
        plan.add(atari.stable_baselines3_training, row)
        row = _speed("atari collection sb3", f"{atari.ENV} collection, Stable-Baselines3 PPO")
        plan.add(atari.stable_baselines3_collection, row)


def _compared(env: str) -> list[str]:
    return [algo for algo, of_env in FASTER_THAN_PEERS if of_env == env]


def _add_ratios(plan: Plan) -> None:
    plan.compare(
        "minibatch: ours compiled / eager nn.Module",
        "update compiled",
        "update plain",
        Bar(0.35, at_least=False),
    )
    for env in ENVS:
        plan.compare(
            f"{env}: ESPO / its environments alone",
            f"default espo {env}",
            f"env default {env}",
            Bar(0.4, at_least=True),
        )
    for (algo, env), times in FASTER_THAN_PEERS.items():
        plan.compare(
            f"{env}: ours / {PEERS[algo]}, both {algo.upper()}",
            f"{algo} {env}",
            f"sb3 {algo} {env}",
            Bar(times, at_least=True),
        )

    for part, times in FASTER_ON_ATARI.items():
        for precision in ("float32", "bfloat16"):
            plan.compare(
                f"{atari.ENV} {part}: ours in {precision} / Stable-Baselines3",
                f"atari {part} {precision}",
                f"atari {part} sb3",
                Bar(times, at_least=True),
            )


def _speed(key: str, label: str) -> Row:
    return Row(key, label, "steps/s")
