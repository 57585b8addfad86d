"""Checkpoints as files: what is read is what was written, or is refused in one line."""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import os
import pickle
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import rlkit_es
from rlkit_es.errors import CheckpointError, UserError
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.runs.checkpoint_file import FORMAT, LARGEST_BYTES, read_checkpoint, write_checkpoint
from rlkit_es.runs.checkpoint_store import find_checkpoint
from rlkit_es.training.checkpoint import Checkpoint, take_checkpoint
from rlkit_es.training.config import Config
from rlkit_es.training.trainer import Trainer

SMALL = {"num_envs": 2, "rollout_steps": 16, "minibatch_size": 16, "critic_epochs": 2, "compile": "off"}
TINY = Checkpoint(
    {"policy.w": torch.tensor([[1.0, -2.5], [0.0, 3e-8]]), "generator.g": torch.arange(9, dtype=torch.uint8)},
    {"config": {"algo": "ppo"}, "progress": {"env_steps": 12}},
)
one_line = r"^[^\n]+$"


@functools.cache
def trained(algo: str, env: str) -> Checkpoint:
    config = Config.for_algorithm(algo, env=env, backend="gymnasium", hidden_sizes=(8,), **SMALL)
    trainer = Trainer(config)
    trainer.train(64)
    trainer.close()
    return take_checkpoint(trainer)


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    contiguous = tensor.contiguous()
    return tensor.dtype, tensor.shape, contiguous.flatten().view(torch.uint8).numpy().tobytes()


def assert_same(a: Checkpoint, b: Checkpoint) -> None:
    assert {name: bits(x) for name, x in a.tensors.items()} == {
        name: bits(x) for name, x in b.tensors.items()
    }
    # As text, in which NaN equals NaN and -0.0 does not equal 0.0.
    assert json.dumps(a.state) == json.dumps(b.state)


@pytest.fixture(autouse=True)
def _nothing_takes_long() -> Iterator[None]:
    def too_long(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("algo", RECIPES)
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_of_every_recipe_what_is_read_is_bitwise_what_was_written(
    tmp_path: Path, algo: str, env: str
) -> None:
    checkpoint = trained(algo, env)
    write_checkpoint(tmp_path / "file", checkpoint)
    assert_same(read_checkpoint(tmp_path / "file"), checkpoint)


EVERY_DTYPE = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
]


@pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_every_dtype_and_shape_is_kept(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    write_checkpoint(tmp_path / "file", Checkpoint({"x": tensor}, {}))
    read = read_checkpoint(tmp_path / "file").tensors["x"]
    assert bits(read) == bits(tensor)


def test_numbers_that_compare_oddly_are_kept_bit_for_bit(tmp_path: Path) -> None:
    values = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 3.4e38]
    payload = torch.tensor([0x7FC00001, 0x7F800001, 1], dtype=torch.int32).view(torch.float32)
    checkpoint = Checkpoint({"values": torch.tensor(values), "payload": payload}, {"values": values})
    write_checkpoint(tmp_path / "file", checkpoint)
    assert_same(read_checkpoint(tmp_path / "file"), checkpoint)


def test_the_state_is_kept_whatever_json_can_hold(tmp_path: Path) -> None:
    state = {
        "numbers": [0, -1, 2**63, 10**400, 0.1, 5e-324, 1.7976931348623157e308, 1 / 3],
        "": {"none": None, "true": True, "nested": [[[{}]], []]},
        "text": "\0\n\"\\/'\x7f\u2028é漢😀",
    }
    write_checkpoint(tmp_path / "file", Checkpoint({}, state))
    read = read_checkpoint(tmp_path / "file").state
    assert read == state
    assert json.dumps(read) == json.dumps(state)


def test_a_file_can_be_read_by_what_reads_safetensors(tmp_path: Path) -> None:
    checkpoint = trained("ppo", "CartPole-v1")
    write_checkpoint(tmp_path / "file", checkpoint)
    tensors = safetensors.torch.load_file(tmp_path / "file")
    assert {name: bits(x) for name, x in tensors.items()} == {
        name: bits(x) for name, x in checkpoint.tensors.items()
    }


def test_every_flipped_bit_is_noticed_or_without_effect(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_checkpoint(path, TINY)
    content, harmless, messages = path.read_bytes(), 0, []
    for position in range(len(content)):
        for bit in (1 << position % 8, 0x80):
            damaged = bytearray(content)
            damaged[position] ^= bit
            path.write_bytes(damaged)
            try:
                read = read_checkpoint(path)
            except CheckpointError as error:
                messages.append(str(error))
            else:
                assert_same(read, TINY)
                harmless += 1
    assert [message for message in messages if len(message.splitlines()) != 1] == []
    assert harmless < len(content) / 10


def test_every_truncation_and_every_extension_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_checkpoint(path, TINY)
    content = path.read_bytes()
    for changed in (*(content[:end] for end in range(len(content))), content + b"\0", content * 2):
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=one_line):
            read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 1, 7, 2**31, 2**32, 2**63, 2**64 - 1])
def test_a_header_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "file"
    write_checkpoint(path, TINY)
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=one_line):
        read_checkpoint(path)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def exchange(header: dict[str, Any]) -> None:
    header["policy.w"]["data_offsets"], header["policy.w"]["shape"] = [0, 16], [1, 4]


HEADERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "another shape": exchange,
    "another dtype": lambda header: header["policy.w"].update(dtype="I32"),
    "unknown dtype": lambda header: header["policy.w"].update(dtype="X9"),
    "negative offset": lambda header: header["policy.w"].update(data_offsets=[-16, 0]),
    "offsets beyond the end": lambda header: header["policy.w"].update(data_offsets=[0, 2**40]),
    "offsets that overflow": lambda header: header["policy.w"].update(data_offsets=[0, 2**64]),
    "huge shape": lambda header: header["policy.w"].update(shape=[2**62, 2**62]),
    "huge empty shape": lambda header: header["policy.w"].update(shape=[2**62, 0], data_offsets=[0, 0]),
    "another name": lambda header: header.update({"../../w": header.pop("policy.w")}),
    "a tensor more": lambda header: header.update(
        more={"dtype": "F32", "shape": [0], "data_offsets": [25, 25]}
    ),
    "no metadata": lambda header: header.pop("__metadata__"),
    "metadata that is a list": lambda header: header.update(__metadata__=[]),
    "no state": lambda header: header["__metadata__"].pop("state"),
    "no checksum": lambda header: header["__metadata__"].pop("sha256"),
    "another state": lambda header: header["__metadata__"].update(state="{}"),
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_a_header_that_was_changed_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    write_checkpoint(tmp_path / "file", TINY)
    rewrite_header(tmp_path / "file", change)
    with pytest.raises(CheckpointError, match=one_line):
        read_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("format_", ["rlkit_es checkpoint 2", "", None])
def test_another_format_is_refused_as_such(tmp_path: Path, format_: str | None) -> None:
    write_checkpoint(tmp_path / "file", TINY)
    metadata = {} if format_ is None else {"format": format_}
    rewrite_header(tmp_path / "file", lambda header: header.update(__metadata__=metadata))
    with pytest.raises(CheckpointError, match="not an rlkit_es checkpoint that this version can read"):
        read_checkpoint(tmp_path / "file")
    assert FORMAT.startswith("rlkit_es checkpoint ")


def write_sealed(path: Path, state: str) -> None:
    """A file whose checksum is right, of a state that `json.dumps` would not write."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "dumps", lambda _: state)
        write_checkpoint(path, Checkpoint({}, {}))


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        '"text"',
        "[" * 100_000,
        '{"a":' * 100_000,
        f'{{"n": {"9" * 5000}}}',
        "{}{}",
    ],
    ids=lambda state: f"{state[:8]}, {len(state)} characters",
)
def test_a_state_that_is_no_json_object_is_refused_though_the_checksum_fits(
    tmp_path: Path, state: str
) -> None:
    write_sealed(tmp_path / "file", state)
    with pytest.raises(CheckpointError, match=one_line):
        read_checkpoint(tmp_path / "file")


def test_a_header_far_longer_than_any_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    write_sealed(tmp_path / "file", '{"config":[' + "{}," * 10_000_000 + "{}]}")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "file")


class Malicious:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def a_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(mark)))


def a_torch_file(path: Path, mark: Path) -> None:
    torch.save({"state": Malicious(mark)}, path)


def an_old_torch_file(path: Path, mark: Path) -> None:
    torch.save({"state": Malicious(mark)}, path, _use_new_zipfile_serialization=False)


def a_zip_file(path: Path, mark: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../mark", "x")
        archive.writestr("archive/data.pkl", pickle.dumps(Malicious(mark)))


def a_pickle_within_a_checkpoint(path: Path, mark: Path) -> None:
    content = torch.frombuffer(bytearray(pickle.dumps(Malicious(mark))), dtype=torch.uint8)
    safetensors.torch.save_file({"data.pkl": content}, path, {"state": repr(pickle.dumps(Malicious(mark)))})


def a_python_program(path: Path, mark: Path) -> None:
    path.write_text(f"open({str(mark)!r}, 'w')\n")


def a_text(path: Path, _: Path) -> None:
    path.write_text('{"config": {"algo": "ppo"}}\n' * 100)


def nothing(path: Path, _: Path) -> None:
    path.touch()


def a_directory(path: Path, _: Path) -> None:
    path.mkdir()


def a_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def a_loop_of_links(path: Path, _: Path) -> None:
    path.symlink_to(path)


def noise(path: Path, _: Path) -> None:
    path.write_bytes(torch.randint(256, (100_000,), dtype=torch.uint8).numpy().tobytes())


def tensors_of_another_program(path: Path, _: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(3)}, path)


def more_bytes_than_any_checkpoint(path: Path, _: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)


NO_CHECKPOINTS = [
    *(a_pickle, a_torch_file, an_old_torch_file, a_zip_file, a_pickle_within_a_checkpoint, a_python_program),
    *(a_text, nothing, a_directory, a_pipe, a_device, a_loop_of_links, noise, tensors_of_another_program),
    more_bytes_than_any_checkpoint,
]


@pytest.mark.parametrize("make", NO_CHECKPOINTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("read", [read_checkpoint, find_checkpoint, rlkit_es.load, rlkit_es.PPO.load])
def test_what_is_no_checkpoint_is_refused_in_one_line_and_nothing_of_it_is_run(
    tmp_path: Path, make: Callable[[Path, Path], None], read: Callable[[Path], Any]
) -> None:
    path, mark = tmp_path / "model.safetensors", tmp_path / "mark"
    make(path, mark)
    with pytest.raises(UserError, match=one_line) as refused:
        read(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 500
    assert list(tmp_path.iterdir()) == [path]


def test_the_malicious_pickle_would_leave_its_mark(tmp_path: Path) -> None:
    a_pickle(tmp_path / "file", tmp_path / "mark")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["absent", "absent/file", "file/below", "zero\0byte", "n" * 300])
def test_a_name_without_a_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cannot read [^\n]*$"):
        read_checkpoint(tmp_path / name)


def test_a_file_is_opened_once_to_be_read_and_nothing_else_is_opened_imported_or_run(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_checkpoint(path, TINY)
    read_checkpoint(path)
    seen = multiprocessing.get_context("fork").SimpleQueue()

    def read_watched() -> None:
        events: list[tuple[str, str]] = []
        sys.addaudithook(lambda event, arguments: events.append((event, str(arguments[:1]))))
        read_checkpoint(path)
        seen.put(list(events))

    process = multiprocessing.get_context("fork").Process(target=read_watched)
    process.start()
    events = seen.get()
    process.join()
    assert [subject for event, subject in events if event == "open"] == [f"({str(path)!r},)"]
    assert not {event for event, _ in events} & {"import", "exec", "compile", "pickle.find_class"}


@pytest.mark.parametrize("place", ["absent/file", "directory"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(UserError, match=r"^cannot write [^\n]*$"):
        write_checkpoint(tmp_path / place, TINY)
    assert [path.name for path in tmp_path.rglob("*")] == ["directory"]
