"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """How far training has come: in the run, and in the stage that one call to train is."""

    iteration: int = 0
    env_steps: int = 0  # transitions: resets are not counted
    wall_seconds: float = 0.0  # of iterations; evaluations and checkpoints are not counted
    segment: int = 0  # how often the environments were to begin anew
    stage_begin: int = 0  # env_steps where this stage of training began: its schedules' start
    stage_end: int = 0  # env_steps where it ends
    best_return: float = float("-inf")  # of the best checkpoint

    def begin_stage(self, total_steps: int) -> None:
        """A stage of ``total_steps`` from here."""
        self.stage_begin = self.env_steps
        self.stage_end = self.env_steps + total_steps

    def forget_best(self) -> None:
        """Whatever comes next is the best so far."""
        self.best_return = float("-inf")

    @property
    def stage_over(self) -> bool:
        """Whether the stage has had its steps."""
        return self.env_steps >= self.stage_end

    @property
    def remaining(self) -> float:
        """Fraction of the stage that is still to come, from 1 to 0."""
        return 1 - (self.env_steps - self.stage_begin) / (self.stage_end - self.stage_begin)


def crosses(before: int, after: int, every: int) -> bool:
    """Whether a multiple of ``every`` lies in (``before``, ``after``]; never for 0."""
    return every > 0 and before // every < after // every
