"""One recipe with several seeds: one seed decides nothing, so say the mean and the spread.

Run it: ``python examples/many_seeds.py``. For whole suites see ``benchmarks/learning.py``; a figure of the
runs that this leaves, with a band over the seeds: ``rlkit-es plot runs/many_seeds``.
"""

import argparse
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
    returns = []
    for seed in range(given.seeds):
        directory = given.directory / f"seed{seed}"
        agent = rlkit_es.PPO("CartPole-v1", seed=seed, num_envs=8, rollout_steps=64, run_dir=directory)
        agent.learn(given.steps)
        returns.append(rlkit_es.evaluate(agent, episodes=10).return_mean)
        agent.close()
        print(f"seed {seed}: {returns[-1]:.1f}")
    print(f"mean {np.mean(returns):.1f}, lowest {min(returns):.1f}, highest {max(returns):.1f}")


if __name__ == "__main__":
    main()
