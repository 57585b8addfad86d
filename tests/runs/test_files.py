from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlkit_es.errors import UserError
from rlkit_es.runs.files import TEMPORARY, write_atomically, writing

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
OLD, NEW = b"the old content", b"the new one, which is longer"


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def fail_when_opened(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setattr(Path, "open", raising(error))


def fail_when_synced(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setattr(os, "fsync", raising(error))


def fail_when_renamed(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setattr(Path, "replace", raising(error))


every_moment = pytest.mark.parametrize(
    "fail", [fail_when_opened, fail_when_synced, fail_when_renamed], ids=lambda fail: fail.__name__
)


@pytest.mark.parametrize("content", [b"", b"\0\n\r\n", NEW, bytes(range(256)) * 5000], ids=len)
@pytest.mark.parametrize("old", [None, OLD, OLD * 10_000], ids=["no file", "short", "long"])
def test_what_is_written_is_there_byte_for_byte_and_nothing_else(
    tmp_path: Path, content: bytes, old: bytes | None
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    write_atomically(path, content)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@every_moment
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, fail: Callable[..., None], error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    before = path.stat()
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, error)
        with pytest.raises((UserError, type(error))):
            write_atomically(path, NEW)
    assert path.read_bytes() == OLD
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]


@every_moment
def test_a_failure_where_there_was_no_file_leaves_none(tmp_path: Path, fail: Callable[..., None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, FULL)
        with pytest.raises(UserError):
            write_atomically(tmp_path / "file", NEW)
    assert list(tmp_path.iterdir()) == []


@every_moment
def test_what_the_system_refuses_is_one_line_that_names_the_file(
    tmp_path: Path, fail: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, FULL)
    with pytest.raises(UserError) as refused:
        write_atomically(tmp_path / "file", NEW)
    assert str(refused.value) == f"cannot write {tmp_path / 'file'}: {os.strerror(errno.ENOSPC)}"


def test_an_interruption_is_not_taken_for_an_error_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_when_synced(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", NEW)


def test_a_process_that_is_killed_before_the_end_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def write_and_be_killed() -> None:
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        write_atomically(path, NEW)

    process = multiprocessing.get_context("fork").Process(target=write_and_be_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert path.read_bytes() == OLD
    assert [left.name.endswith(TEMPORARY) for left in tmp_path.iterdir() if left != path] == [True]


def test_the_content_is_on_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        events.append("directory" if os.path.isdir(f"/dev/fd/{descriptor}") else "content")

    def renamed(self: Path, target: Path) -> Path:
        events.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "file", NEW)
    assert events == ["content", "name", "directory"]


@pytest.mark.parametrize(
    "place", ["absent/file", "text/file", "directory", "n" * 300], ids=lambda place: place[:20]
)
def test_a_place_that_cannot_be_written_is_refused_in_one_line_and_left_alone(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "text").write_text("not a directory")
    (tmp_path / "directory" / "full").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"^cannot write [^\n]*$"):
        write_atomically(tmp_path / place, NEW)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_at_the_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(OLD)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", NEW)
    assert (tmp_path / "target").read_bytes() == OLD
    assert (tmp_path / "link").read_bytes() == NEW


def test_errors_that_are_not_the_systems_pass_through() -> None:
    with pytest.raises(ValueError, match="ours"), writing(Path("file")):
        raise ValueError("ours")
