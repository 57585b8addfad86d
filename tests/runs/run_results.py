"""What a run left, to be compared with what another did."""

import csv
from pathlib import Path

from rlkit_es.runs.checkpoint_file import read_checkpoint

TIMING = {"wall_seconds", "steps_per_second"}


def rows(directory: Path) -> list[dict[str, str]]:
    """Of metrics.csv, but for what the time that it took decides."""
    with (directory / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]


def result(directory: Path) -> dict[str, object]:
    """What a run ended with."""
    last = read_checkpoint(max((directory / "checkpoints").glob("step-*")))
    return {
        **{name: (x.dtype, x.shape, x.numpy().tobytes()) for name, x in last.tensors.items()},
        **{f"row {i}": row for i, row in enumerate(rows(directory))},
        "evaluation.json": (directory / "evaluation.json").read_text(),
        "files": sorted(path.name for path in (directory / "checkpoints").iterdir()),
    }
