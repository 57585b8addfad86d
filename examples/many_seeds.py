"""One recipe with several seeds: one seed decides nothing, so say the mean and the spread.

Run it: ``python examples/many_seeds.py``. For whole suites see ``benchmarks/learning.py``. It leaves the runs
in ``runs/many_seeds/<time>``; a figure of them, with a band over the seeds: ``rlkit-es plot`` and that path.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import rlkit_es


def main() -> None:
    """Train once for each seed, and summarise the final evaluations."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps to train for, each")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--directory", type=Path, default=Path("runs/many_seeds"), help="for the runs")
    given = parser.parse_args()
    runs = given.directory / time.strftime("%Y%m%d-%H%M%S")
    returns = []
    for seed in range(given.seeds):
        run_dir = runs / f"seed{seed}"
        agent = rlkit_es.PPO("CartPole-v1", seed=seed, num_envs=8, rollout_steps=64, run_dir=run_dir)
        agent.learn(given.steps)
        returns.append(rlkit_es.evaluate(agent, episodes=10).return_mean)
        agent.close()
        print(f"seed {seed}: {returns[-1]:.1f}")
    print(f"mean {np.mean(returns):.1f}, lowest {min(returns):.1f}, highest {max(returns):.1f}")
    print(f"runs: {runs}")


if __name__ == "__main__":
    main()
