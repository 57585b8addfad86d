"""What a machine of a Ray cluster does with a cell.

These functions are sent there as they are, so that the machine needs the library and not this checkout:
nothing of the benchmarks may be imported here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Files = Mapping[str, bytes]  # content by path, relative to the parent of the run directory

_POLL_SECONDS = 0.2
_LONGEST_STOP_SECONDS = 5.0


def train(run: str, arguments: Sequence[str], before: Files) -> Iterator[Files | None]:
    """Train in a temporary directory.

    Args:
        run: name of the run directory, which ``arguments`` have too.
        arguments: of ``python -m rlkit_es.run``.
        before: what there is of the run.

    Yields:
        None as it begins, then what there is of the run, at each new checkpoint and at the end.
    """
    with tempfile.TemporaryDirectory(prefix="rlkit_es-") as temporary:
        root = Path(temporary)
        for name, content in before.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        yield None
        with (root / f"{run}.log").open("ab") as log:
            command = [sys.executable, "-m", "rlkit_es.run", *arguments]
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=root)
        try:
            yield from _at_checkpoints(process, root, run)
        finally:
            _end(process)
        yield collect(root, run)


def collect(root: Path, run: str) -> dict[str, bytes]:
    """What there is of a run that may be going on meanwhile, as of `order`."""
    paths = [root / f"{run}.log", *(root / run).rglob("*")]
    names = [str(path.relative_to(root)) for path in paths if path.is_file() and path.name[0] != "."]
    files: dict[str, bytes] = {}
    for name in sorted(names, key=order):
        try:
            files[name] = (root / name).read_bytes()
        except FileNotFoundError:  # a checkpoint that has become too old
            continue
    return files


def order(name: str) -> int:
    """Where a file comes when a run is read; it is written in the opposite order.

    So metrics are never older than the checkpoint that is gone on from, and nothing is older than the
    evaluation, which says that the run is finished.
    """
    if Path(name).name == "evaluation.json":
        return 0
    return 1 if name.endswith(".safetensors") else 2


def _at_checkpoints(process: subprocess.Popen[bytes], root: Path, run: str) -> Iterator[Files]:
    known = _checkpoints(root, run)
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        if (there := _checkpoints(root, run)) != known:
            known = there
            yield collect(root, run)


def _checkpoints(root: Path, run: str) -> set[str]:
    return {path.name for path in (root / run / "checkpoints").glob("step-*")}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_LONGEST_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
