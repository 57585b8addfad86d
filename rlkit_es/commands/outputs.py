"""Where commands write."""

from __future__ import annotations

from pathlib import Path

from rlkit_es.errors import UserError


def output_file(output: Path, suffix: str) -> Path:
    """``output``, with ``suffix`` where it has none.

    Raises:
        UserError: it is no name of a file.
    """
    if not output.name or (not output.suffix and output.is_dir()):
        raise UserError(f"--output must be the name of a file, got {output}")
    return output if output.suffix else output.with_suffix(suffix)
