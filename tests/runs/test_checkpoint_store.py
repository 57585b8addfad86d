from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlkit_es.errors import CheckpointError, NonFiniteError, UserError
from rlkit_es.ranks import Ranks
from rlkit_es.runs.checkpoint_file import read_checkpoint
from rlkit_es.runs.checkpoint_store import CHECKPOINTS, CheckpointStore, find_checkpoint
from rlkit_es.training.checkpoint import Checkpoint, config_of, restored, take_checkpoint
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer

SMALL = {"num_envs": 2, "rollout_steps": 8, "minibatch_size": 16, "hidden_sizes": (4,), "compile": "off"}
WEIGHT = "policy.actor.network.weight_0"


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    trainer = Trainer(Config.for_algorithm("ppo", env="CartPole-v1", backend="gymnasium", **SMALL))
    yield trainer
    trainer.close()


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    (tmp_path / CHECKPOINTS).mkdir()
    return CheckpointStore(tmp_path / CHECKPOINTS, keep=2)


def change(trainer: Trainer, by: float = 1.0) -> None:
    with torch.no_grad():
        trainer.policy.get_parameter("actor.network.weight_0").add_(by)


def save_at(store: CheckpointStore, trainer: Trainer, *steps: int) -> None:
    """One for each of the steps, no two of the same policy."""
    for step in steps:
        trainer.progress.env_steps = trainer.progress.stage_end = step
        change(trainer)
        store.save(trainer)


def assert_same(a: Checkpoint, b: Checkpoint) -> None:
    assert a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(x, b.tensors[name]) for name, x in a.tensors.items())
    assert json.dumps(a.state) == json.dumps(b.state)


def names(store: CheckpointStore) -> set[str]:
    return {path.name for path in store.directory.iterdir()}


def test_a_rank_that_does_not_write_waits_for_the_one_that_does(store: CheckpointStore) -> None:
    class Second(Ranks):
        rank = 1

        def from_first(self, thing: Any) -> Any:
            (store.directory / "step-000000000000.safetensors").touch()
            return thing

    trainer = Trainer(Config.for_algorithm("ppo", env="CartPole-v1", backend="gymnasium", **SMALL))
    trainer.ranks = Second()
    assert store.save(trainer).exists()
    trainer.close()


def test_what_is_saved_is_loaded(store: CheckpointStore, trainer: Trainer) -> None:
    trainer.train(32)
    path = store.save(trainer)
    loaded, damaged = store.load()
    assert_same(loaded, take_checkpoint(trainer))
    assert_same(read_checkpoint(path), loaded)
    assert damaged == []


@pytest.mark.parametrize("keep", [1, 2, 3, 10])
def test_the_last_ones_stay_and_no_others(store: CheckpointStore, trainer: Trainer, keep: int) -> None:
    store.keep = keep
    steps = [0, 7, 64, 100, 1_000_000, 10**13]
    for count in range(1, len(steps) + 1):
        save_at(store, trainer, steps[count - 1])
        assert store.steps() == steps[:count][-keep:]
        assert len(names(store)) == min(count, keep)


def test_saving_again_at_the_same_step_replaces(store: CheckpointStore, trainer: Trainer) -> None:
    save_at(store, trainer, 5, 5)
    assert store.steps() == [5]
    assert torch.equal(store.load()[0].tensors[WEIGHT], trainer.policy.state_dict()["actor.network.weight_0"])


def test_steps_are_in_the_order_of_numbers(store: CheckpointStore, trainer: Trainer) -> None:
    store.keep = 10
    steps = [9, 10, 99, 100, 10**12 - 1, 10**12, 10**15]
    save_at(store, trainer, *steps)
    assert store.steps() == steps
    assert store.load()[0].state["progress"]["env_steps"] == 10**15


def test_other_files_are_let_be(store: CheckpointStore, trainer: Trainer) -> None:
    others = {"step-.safetensors", "step-last.safetensors", "step--1.safetensors", "step-1.safetensors.bak"}
    others |= {"notes.txt", "step-000000000001.json", "step-1e3.safetensors"}
    for name in others:
        (store.directory / name).touch()
    save_at(store, trainer, 1, 2, 3)
    store.forget_after(0)
    assert store.steps() == []
    assert names(store) == others


def test_the_best_stays_beside_the_last_ones(store: CheckpointStore, trainer: Trainer) -> None:
    store.keep = 1
    store.save_if_best(trainer, 10.0)
    best = take_checkpoint(trainer)
    save_at(store, trainer, 1, 2, 3)
    assert names(store) == {"best.safetensors", "step-000000000003.safetensors"}
    assert_same(store.load("best")[0], best)
    assert not torch.equal(store.load("last")[0].tensors[WEIGHT], best.tensors[WEIGHT])


def test_only_a_higher_return_is_better_and_nan_never_is(store: CheckpointStore, trainer: Trainer) -> None:
    kept = []
    for mean_return in (float("nan"), -5.0, -5.0, float("nan"), -6.0, 3.0, 2.0, float("-inf"), 4.0):
        change(trainer)
        store.save_if_best(trainer, mean_return)
        if (store.directory / "best.safetensors").exists():
            kept.append(store.load("best")[0].state["progress"]["best_return"])
    assert kept == [-5.0, -5.0, -5.0, -5.0, 3.0, 3.0, 3.0, 4.0]


def test_what_was_best_is_known_to_the_trainer_that_goes_on(store: CheckpointStore, trainer: Trainer) -> None:
    store.save_if_best(trainer, 10.0)
    save_at(store, trainer, 1)
    loaded, _ = store.load()
    again = restored(loaded, config_of(loaded))
    best = (store.directory / "best.safetensors").read_bytes()
    store.save_if_best(again, 9.0)
    assert (store.directory / "best.safetensors").read_bytes() == best
    store.save_if_best(again, 11.0)
    assert (store.directory / "best.safetensors").read_bytes() != best


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def replaced_by_text(path: Path) -> None:
    path.write_text("no checkpoint\n")


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE = [emptied, cut, flipped, replaced_by_text, replaced_by_a_directory, replaced_by_a_pipe]
every_damage = pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)


@every_damage
def test_a_damaged_last_one_is_passed_over_and_said(
    store: CheckpointStore, trainer: Trainer, damage: Callable[[Path], None]
) -> None:
    store.keep = 3
    save_at(store, trainer, 1, 2)
    whole = take_checkpoint(trainer)
    save_at(store, trainer, 3)
    damage(store.directory / "step-000000000003.safetensors")
    loaded, damaged = store.load("last")
    assert_same(loaded, whole)
    assert ["step-000000000003" in str(error) for error in damaged] == [True]


@every_damage
def test_where_all_are_damaged_the_last_ones_damage_is_said(
    store: CheckpointStore, trainer: Trainer, damage: Callable[[Path], None]
) -> None:
    save_at(store, trainer, 1, 2)
    store.save_if_best(trainer, 1.0)
    for step in (1, 2):
        damage(store.directory / f"step-{step:012d}.safetensors")
    with pytest.raises(CheckpointError, match=r"^[^\n]*step-000000000002[^\n]*$"):
        store.load("last")


@every_damage
@pytest.mark.parametrize("which", ["best", "2"])
def test_a_damaged_one_that_was_asked_for_is_not_replaced_by_another(
    store: CheckpointStore, trainer: Trainer, damage: Callable[[Path], None], which: str
) -> None:
    save_at(store, trainer, 1, 2)
    store.save_if_best(trainer, 1.0)
    damage(store.directory / {"best": "best.safetensors", "2": "step-000000000002.safetensors"}[which])
    with pytest.raises(CheckpointError):
        store.load(which)
    assert store.load("1")[0].state["progress"]["env_steps"] == 1


@pytest.mark.parametrize("which", ["3", "-1", "", "first", "1.0", "../1", "step-000000000001", "²"])
def test_what_is_not_there_is_answered_with_what_is(
    store: CheckpointStore, trainer: Trainer, which: str
) -> None:
    save_at(store, trainer, 1, 20)
    with pytest.raises(UserError, match=r"^no checkpoint .*: there is 1, 20$"):
        store.load(which)
    with pytest.raises(UserError, match=r"there is 1, 20$"):
        store.load("best")
    store.save_if_best(trainer, 1.0)
    with pytest.raises(UserError, match=r"there is 1, 20, best$"):
        store.load(which)


@pytest.mark.parametrize("which", ["last", "best", "0"])
def test_where_there_is_nothing_it_is_said(store: CheckpointStore, which: str) -> None:
    with pytest.raises(UserError, match=r"there is none at all$"):
        store.load(which)
    with pytest.raises(UserError, match=r"there is none at all$"):
        CheckpointStore(store.directory / "absent", keep=1).load(which)


def test_steps_may_be_named_with_zeros_before_them(store: CheckpointStore, trainer: Trainer) -> None:
    save_at(store, trainer, 1, 20)
    assert store.load("000020")[0].state["progress"]["env_steps"] == 20


def test_going_on_from_a_step_forgets_the_later_ones_and_what_was_not_finished(
    store: CheckpointStore, trainer: Trainer
) -> None:
    store.keep = 5
    save_at(store, trainer, 1, 2, 3)
    store.save_if_best(trainer, 1.0)
    (store.directory / ".step-000000000003.safetensors.123.tmp").write_bytes(b"unfinished")
    store.forget_after(2)
    assert store.steps() == [1, 2]
    assert names(store) == {
        *("step-000000000001.safetensors", "step-000000000002.safetensors", "best.safetensors")
    }


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_costs_no_other_checkpoint(
    store: CheckpointStore, trainer: Trainer, error: BaseException
) -> None:
    store.keep = 1
    save_at(store, trainer, 1)
    store.save_if_best(trainer, 1.0)
    before = {path: path.read_bytes() for path in store.directory.iterdir()}

    def fail(_: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        trainer.progress.env_steps = 2
        for save in (lambda: store.save(trainer), lambda: store.save_if_best(trainer, 2.0)):
            with pytest.raises((UserError, KeyboardInterrupt)):
                save()
    assert {path: path.read_bytes() for path in store.directory.iterdir()} == before


def test_a_policy_that_is_not_finite_is_not_saved(store: CheckpointStore, trainer: Trainer) -> None:
    save_at(store, trainer, 1)
    before = {path: path.read_bytes() for path in store.directory.iterdir()}
    change(trainer, float("nan"))
    for save in (lambda: store.save(trainer), lambda: store.save_if_best(trainer, 2.0)):
        with pytest.raises(NonFiniteError, match=r"policy\.actor\.network\.weight_0 is not finite"):
            save()
    assert {path: path.read_bytes() for path in store.directory.iterdir()} == before


def test_an_old_one_that_cannot_be_removed_is_no_reason_to_stop(
    store: CheckpointStore, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    save_at(store, trainer, 1, 2, 3)
    assert store.steps() == [1, 2, 3]


def test_a_checkpoint_is_found_from_its_file_its_directory_and_its_run(
    tmp_path: Path, store: CheckpointStore, trainer: Trainer
) -> None:
    save_at(store, trainer, 1, 2)
    store.save_if_best(trainer, 1.0)
    for directory in (tmp_path, store.directory):
        assert_same(find_checkpoint(directory), store.load()[0])
        assert_same(find_checkpoint(directory, "1"), store.load("1")[0])
        assert_same(find_checkpoint(directory, "best"), store.load("best")[0])
    assert_same(find_checkpoint(store.directory / "step-000000000001.safetensors"), store.load("1")[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no checkpoint last in"):
        find_checkpoint(tmp_path / "empty")


def test_a_directory_of_runs_names_them(tmp_path: Path) -> None:
    for name in ("seed0", "seed1"):
        (tmp_path / name / CHECKPOINTS).mkdir(parents=True)
    with pytest.raises(UserError, match=r"is not one run: choose \S+/seed0 or \S+/seed1$"):
        find_checkpoint(tmp_path)


def test_the_suffix_may_be_left_out_as_in_saving(
    tmp_path: Path, store: CheckpointStore, trainer: Trainer
) -> None:
    save_at(store, trainer, 1)
    store._path(1).rename(tmp_path / "cheetah.safetensors")
    assert_same(find_checkpoint(tmp_path / "cheetah"), find_checkpoint(tmp_path / "cheetah.safetensors"))
    with pytest.raises(UserError, match=r"cannot read .*lion: No such file"):
        find_checkpoint(tmp_path / "lion")


@pytest.mark.parametrize("name", ["step-7.safetensors", "step-00000000000000007.safetensors"])
def test_a_copy_whose_name_is_of_other_digits_hides_no_checkpoint(
    store: CheckpointStore, trainer: Trainer, name: str
) -> None:
    save_at(store, trainer, 1)
    (store.directory / name).write_bytes((store.directory / "step-000000000001.safetensors").read_bytes())
    assert store.load("last")[0].state["progress"]["env_steps"] == 1


@pytest.mark.parametrize(
    ("path", "which"), [("n" * 5000, "last"), (CHECKPOINTS, "9" * 5000)], ids=["path", "step"]
)
def test_a_name_that_is_far_too_long_is_refused_in_one_line(
    store: CheckpointStore, trainer: Trainer, path: str, which: str
) -> None:
    save_at(store, trainer, 1)
    with pytest.raises(UserError):
        find_checkpoint(Path(path), which)
