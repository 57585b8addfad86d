"""A checkpoint as one safetensors file: tensors, and JSON among its metadata, under one checksum.

Loading it runs no code that it holds: there is no pickle, no path and no name of anything to import.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rlkit_es.errors import CheckpointError, UserError, first_line
from rlkit_es.runs.files import write_atomically
from rlkit_es.training.checkpoint import Checkpoint

FORMAT = "rlkit_es checkpoint 1"
LARGEST_BYTES = 4 * 1024**3
# A real one has tens of kB; parsed, JSON takes many times its size.
LARGEST_HEADER_BYTES = 4 * 1024**2
# RuntimeError: also of JSON that is nested too deep.
_MALFORMED = (
    safetensors.SafetensorError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it atomically.

    Raises:
        UserError: the file cannot be written.
    """
    state = json.dumps(checkpoint.state)
    metadata = {"format": FORMAT, "state": state, "sha256": _checksum(checkpoint.tensors, state)}
    write_atomically(path, safetensors.torch.save(dict(checkpoint.tensors), metadata))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify it.

    Raises:
        CheckpointError: it is damaged, or no checkpoint of this version.
        UserError: there is no such file, or it cannot be read.
    """
    content = _read(path)
    try:
        header_size = int.from_bytes(content[:8], "little")
        if header_size > LARGEST_HEADER_BYTES:
            raise ValueError("it is not of the format safetensors")
        tensors = safetensors.torch.load(content)
        metadata = json.loads(content[8 : 8 + header_size]).get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} is not an {FORMAT.rsplit(' ', 1)[0]} that this version can read")
        state = metadata["state"]
        if _checksum(tensors, state) != metadata["sha256"]:
            raise CheckpointError(f"checkpoint {path} is damaged: its checksum does not fit")
        return Checkpoint(tensors, _object(state))
    except _MALFORMED as error:
        reason = first_line(error)
        raise CheckpointError(f"{path} is damaged or no checkpoint: {reason}") from error


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a file")
        if status.st_size > LARGEST_BYTES:
            raise CheckpointError(f"{path} has {status.st_size:,} bytes, more than any checkpoint")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}") from error


def _object(text: str) -> dict[str, object]:
    state = json.loads(text)
    if not isinstance(state, dict):
        raise ValueError("its state is no JSON object")
    return state


def _checksum(tensors: Mapping[str, Tensor], state: str) -> str:
    """Over every name, type, shape and value, and the JSON."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
