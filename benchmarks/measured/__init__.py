"""What throughput.py measures: functions that take the `Turn` of their worker and an `Effort`.

What a function hands over at the end of a turn, a value for each of its rows of the table, was
measured in that turn; what it does before the first turn is preparation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How long things are measured for."""

    window_seconds: float  # of one turn of environments alone, or of updates alone
    training_seconds: float  # of one turn of training, at least: iterations are finished
    warmup_iterations: int  # of training, before the first turn
    startup_steps: int  # of the run whose start is timed
