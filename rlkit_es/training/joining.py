"""How the processes of one launch (torchrun) find each other."""

from __future__ import annotations

import atexit
import os
import time
import uuid
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from rlkit_es.errors import UserError, first_line
from rlkit_es.ranks import ALONE, Group, Ranks

# Processes of one launch start together, but may import from a slow disk.
PATIENCE_SECONDS = 300.0
# Others wait while the first rank evaluates; one that has died is noticed by its connection instead.
_LONGEST_SILENCE = timedelta(hours=12)
_HOW = "start it with torchrun, or unset RANK and WORLD_SIZE to train in one process"


class Launch(NamedTuple):
    """What the environment variables say."""

    rank: int
    size: int
    local_rank: int
    local_size: int


class _Joined:
    """The group of this process, once it is one of several."""

    ranks: Ranks | None = None
    store: Store | None = None


def launched() -> Launch | None:
    """The launch that this process is of; None where it was started alone.

    Raises:
        UserError: the variables make no sense.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        rank, size, *local = (int(os.environ[name]) for name in names if name in os.environ)
    except ValueError as error:
        raise UserError(f"RANK and WORLD_SIZE must be whole numbers ({first_line(error)}): {_HOW}") from error
    if not 0 <= rank < size:
        raise UserError(f"RANK is {rank} and WORLD_SIZE {size}, of which it cannot be one: {_HOW}")
    return Launch(rank, size, *(local if len(local) == 2 else (0, 1)))


def current_ranks() -> Ranks:
    """The ranks that this process is one of, joined at the first call; `ALONE` outside of a launch.

    Raises:
        UserError: they do not find each other.
    """
    if _Joined.ranks is None:
        launch = launched()
        if launch is None or launch.size == 1:
            return ALONE
        if not dist.is_initialized():
            join(launch)
        _Joined.ranks = Group(launch.local_rank, launch.local_size)
        atexit.register(leave)
    return _Joined.ranks


def join(launch: Launch, patience_seconds: float = PATIENCE_SECONDS) -> Store:
    """Make torch's default process group, as soon as every rank has come.

    Args:
        launch: that this process is of.
        patience_seconds: to wait for the others.

    Returns:
        where ranks leave notes for each other, which outlasts the group.

    Raises:
        UserError: there is nowhere to meet, or somebody did not come.
    """
    place = PrefixStore("rlkit_es", _meeting_place(launch, timedelta(seconds=patience_seconds)))
    try:
        store = _meet(place, launch, patience_seconds)
    except (RuntimeError, TimeoutError) as error:
        raise UserError(
            f"not all of the {launch.size} ranks came within {patience_seconds:g} s: start torchrun on every "
            "node, with the same --rdzv-endpoint, --nnodes and --nproc-per-node"
        ) from error
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=launch.rank,
            world_size=launch.size,
            timeout=_LONGEST_SILENCE,
        )
    except RuntimeError as error:
        raise UserError(f"the ranks cannot reach each other: {first_line(error)}") from error
    _Joined.store = store
    return store


def notes() -> Store | None:
    """Where ranks leave notes for each other; None where they were not joined here."""
    return _Joined.store


def leave() -> None:
    """Close this rank's connections, so that no other waits for it."""
    if dist.is_initialized():
        dist.destroy_process_group()
    _Joined.ranks = None


def _meet(place: Store, launch: Launch, patience_seconds: float) -> Store:
    """A part of ``place`` of these processes alone: torchrun may lead those it starts anew to the same one.

    Each of the others knocks with a name of its own, by which the first one tells it where the part is; who
    knocked before, and has ended since, is told too, and does not come.

    Raises:
        RuntimeError, TimeoutError: somebody did not come.
    """
    own = uuid.uuid4().hex
    if launch.rank:
        place.set(f"knock/{launch.rank}", own)
        place.wait([f"told/{own}"], timedelta(seconds=patience_seconds))
        store = PrefixStore(str(place.get(f"told/{own}"), "utf-8"), place)
        store.set(f"here/{launch.rank}", "")
        return store
    store, deadline = PrefixStore(own, place), time.monotonic() + patience_seconds
    others = range(1, launch.size)
    while not store.check([f"here/{rank}" for rank in others]):
        for knock in (f"knock/{rank}" for rank in others):
            if place.check([knock]):
                place.set(f"told/{str(place.get(knock), 'utf-8')}", own)
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)
    return store


def _meeting_place(launch: Launch, patience: timedelta) -> Store:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"this is one of {launch.size} ranks, and {' and '.join(missing)} of their rendezvous "
            f"is not set: {_HOW}"
        )
    try:
        store: Store = next(rendezvous("env://", timeout=patience))[0]
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"no rendezvous at {where} ({first_line(error)}): {_HOW}") from error
    return store
