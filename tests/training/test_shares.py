from __future__ import annotations

import pickle
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from rlkit_es.envs.registry import usable_cores
from rlkit_es.errors import UserError
from rlkit_es.learners.compilation import should_compile
from rlkit_es.ranks import ALONE, Ranks
from rlkit_es.training.config import Config
from rlkit_es.training.device import resolve_device
from rlkit_es.training.joining import Launch, _meet, join, launched
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.training.shares import cores, require_agreement, share_of
from rlkit_es.training.trainer import Trainer


class Several(Ranks):
    """As if there were others, who say ``things``."""

    def __init__(self, size: int, rank: int = 0, others: tuple[Any, ...] = ()) -> None:
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = rank, size
        self.others = others

    def everyones(self, thing: Any) -> list[Any]:
        return [thing, *({**thing, **other} for other in self.others)]


def config(**settings: Any) -> Config:
    small = {"env": "CartPole-v1", "num_envs": 12, "minibatch_size": 36, "rollout_steps": 8}
    return Config.for_algorithm("ppo", **{**small, **settings})


def test_one_process_has_everything() -> None:
    whole = config()
    assert share_of(whole, ALONE) is whole
    require_agreement(whole, ALONE)


@pytest.mark.parametrize("size", [2, 3, 4, 6, 12])
def test_the_shares_make_the_whole(size: int) -> None:
    whole, share = config(), share_of(config(), Several(size))
    for name in ("num_envs", "minibatch_size", "batch_size"):
        assert size * getattr(share, name) == getattr(whole, name)
    assert share.backend == share_of(whole, Several(2)).backend  # even where one environment is left
    assert share.env_threads == cores(Several(size)) == max(1, usable_cores() // size)
    assert share_of(config(env_threads=3), Several(size)).env_threads == 3


def test_every_rank_has_the_arguments_of_the_environment() -> None:
    whole = config(env="Pendulum-v1", env_kwargs={"g": 5.0, "deep": [1]})
    require_agreement(
        whole, Several(2, others=(pickle.loads(pickle.dumps({"env_kwargs": whole.env_kwargs})),))
    )
    share = share_of(whole, Several(12))
    assert share.env_kwargs == whole.env_kwargs
    assert share.backend == "gymnasium"


@pytest.mark.parametrize(("name", "value"), [("num_envs", 13), ("minibatch_size", 35)])
def test_what_does_not_divide_is_refused(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"^{name} {value} does not divide over 2 ranks: make it a multiple"):
        share_of(config(**{name: value}), Several(2))


@pytest.mark.parametrize("name", ["seed", "learning_rate", "env_kwargs", "torch", "processor"])
def test_ranks_that_differ_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"^rank 2 has {name} 'other' and rank 0 "):
        require_agreement(config(), Several(3, others=({}, {name: "other"})))


def test_each_may_be_told_of_another_directory() -> None:
    require_agreement(config(run_dir="here"), Several(2, others=({"run_dir": "there"},)))


@pytest.mark.parametrize("seed", [0, 7])
def test_ranks_draw_for_themselves_what_is_not_everyones(seed: int) -> None:
    of_ranks = [derive_seeds(seed, rank) for rank in range(4)]
    assert of_ranks[0] == derive_seeds(seed)
    for name in of_ranks[0]._fields:
        different = len({getattr(seeds, name) for seeds in of_ranks})
        assert different == (4 if name in ("action_noise", "minibatches") else 1)


def test_ranks_have_the_environments_that_one_process_would_have() -> None:
    whole = Trainer(config())
    seeds = [
        seed
        for rank in range(3)
        for seed in Trainer(config(), spaces=whole.spaces, ranks=Several(3, rank))._env_seeds()
    ]
    assert seeds == whole._env_seeds()
    assert len(set(seeds)) == 12
    whole.close()


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    cpu = torch.device("cpu")
    does, why = should_compile("auto", 10**9, cpu)
    assert (does, "no-such-compiler" in why) == (False, True)
    with pytest.raises(
        UserError,
        match=r"^compile is on, but no C\+\+ compiler was found: install no-such-compiler; ",
    ):
        should_compile("on", 10**9, cpu)


def test_several_do_not_compile() -> None:
    cpu = torch.device("cpu")
    assert should_compile("auto", 10**9, cpu, ranks=2)[0] is False
    with pytest.raises(UserError, match="compile is on, but 2 ranks exchange gradients"):
        should_compile("on", 10**9, cpu, ranks=2)


def test_one_gpu_is_not_for_several_ranks() -> None:
    with pytest.raises(UserError, match=r"use --device cuda$"):
        resolve_device("cuda:0", Several(2))
    with pytest.raises(UserError, match="'cuda:99' cannot be used"):
        resolve_device("cuda", Several(100, rank=99))


def test_a_process_outside_of_a_launch_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched() is None
    monkeypatch.setenv("RANK", "1")
    assert launched() == Launch(1, 2, 0, 1)


def test_ranks_meet_where_others_have_met_before() -> None:
    place = dist.HashStore()
    for stale in ("knock/1", "knock/2", "here/0", "here/1", "here/2"):
        place.set(stale, "of processes that have ended")

    def met(rank: int) -> list[str]:
        store = _meet(place, Launch(rank, 3, rank, 3), 20)
        store.set(f"from {rank}", str(rank))
        store.wait([f"from {other}" for other in range(3)], timedelta(seconds=20))
        return [store.get(f"from {other}").decode() for other in range(3)]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(met, range(3))) == [["0", "1", "2"]] * 3


@pytest.mark.parametrize("listens", [False, True])
def test_nobody_waits_for_long_where_others_do_not_come(
    listens: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(port))
    rank = 0 if listens else 1  # the first one is who the others come to
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=f"no rendezvous at localhost:{port} ") as error:
        join(Launch(rank, 2, rank, 2), patience_seconds=1)
    assert "\n" not in str(error.value)
