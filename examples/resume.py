"""Stop a run half-way, go on with it, and compare with the run that was never stopped: equal to the bit.

Run it: ``python examples/resume.py``, which leaves two run directories in ``runs/resume/<time>``.
"""

import argparse
import time
from pathlib import Path

import torch

import rlkit_es


class StopAt(rlkit_es.Callback):
    """Ends training at so many steps, as Ctrl-C would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_iteration(self, trainer, metrics):
        if metrics["env_steps"] >= self.steps:
            trainer.request_stop("half-way")


def main() -> None:
    """Train twice, once with a stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps to train for")
    parser.add_argument("--directory", type=Path, default=Path("runs/resume"), help="for both runs")
    given = parser.parse_args()
    runs = given.directory / time.strftime("%Y%m%d-%H%M%S")
    settings = {"num_envs": 8, "total_steps": given.steps, "checkpoint_every": given.steps // 4}
    whole = rlkit_es.ESPO("CartPole-v1", run_dir=runs / "whole", **settings).learn(given.steps)
    stopped = rlkit_es.ESPO("CartPole-v1", run_dir=runs / "stopped", **settings)
    stopped.learn(given.steps, callbacks=[StopAt(given.steps // 2)])
    resumed = rlkit_es.resume(runs / "stopped")
    other = resumed.policy.state_dict()
    same = all(torch.equal(value, other[name]) for name, value in whole.policy.state_dict().items())
    print(f"stopped at {stopped.env_steps}, ended at {resumed.env_steps}; the same to the bit: {same}")


if __name__ == "__main__":
    main()
