"""One run by several processes: torchrun starts this script once for each, and they train together.

Run it: ``torchrun --standalone --nproc-per-node 2 examples/distributed.py``. Every rank has its share of the
environments and minibatches; whatever concerns the run is called on all of them, and the first one speaks.
"""

import argparse
import os

import rlkit_es


def main() -> None:
    """Train together, and evaluate once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps of all ranks together")
    steps = parser.parse_args().steps
    agent = rlkit_es.ESPO("CartPole-v1", num_envs=8, rollout_steps=64, minibatch_size=64).learn(steps)
    agent.save("together.safetensors")
    if os.environ.get("RANK", "0") == "0":
        mean = rlkit_es.evaluate(agent, episodes=10).return_mean
        print(f"{os.environ.get('WORLD_SIZE', '1')} ranks, {agent.env_steps} steps: mean return {mean:.1f}")


if __name__ == "__main__":
    main()
