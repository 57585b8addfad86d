"""Mean returns of uniformly random actions on MuJoCo: the zero of the scores in docs/results.md.

python benchmarks/random_scores.py
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np
from command_line import Parser
from grids.scores import RANDOM_FILE
from grids.suites import SUITES, in_version_5
from machine import save

EPISODES = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Play `EPISODES` episodes of each environment and save the means."""
    options = Parser(description=__doc__).parse_measurement(arguments, RANDOM_FILE)
    envs = (*SUITES["mujoco"].envs, *in_version_5(SUITES["mujoco"]).envs)
    returns = {env: round(random_return(env), 2) for env in envs}
    save(options.output, {"episodes": EPISODES, "returns": returns})
    print("\n".join(f"{env}: {value}" for env, value in returns.items()))


def random_return(env_id: str) -> float:
    """Mean return of random actions, seeds 0 to `EPISODES` - 1."""
    env = gymnasium.make(env_id)
    returns = []
    for seed in range(EPISODES):
        env.action_space.seed(seed)
        env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return float(np.mean(returns))


if __name__ == "__main__":
    main()
