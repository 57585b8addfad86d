"""Files that are either there as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlkit_es.errors import UserError

TEMPORARY = ".tmp"


def write_atomically(path: Path, content: bytes) -> None:
    """``content`` under ``path``, on disk when this returns; what was there stays until then.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_directory(path.parent)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented, with a newline at the end; raises as `write_atomically`."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file it was, in one line, where the system refuses to write it.

    Raises:
        UserError: the system did.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _sync_directory(directory: Path) -> None:
    """The new name itself must be on disk too."""
    if os.name == "nt":
        return  # directories cannot be opened there
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
