"""A surrogate of your own beside PPO's: one pure function, and a name in a slot.

Run it: ``python examples/custom_surrogate.py``. From the command line, with this folder as the current one:
``python -m rlkit_es.run --import custom_surrogate --algo ppo --surrogate squashed --env Hopper-v4``.
"""

import argparse

import torch

import rlkit_es


@rlkit_es.register("surrogate")
def squashed(stats, advantage, clip_range):
    """r A with r - 1 bent smoothly into (-eps, eps); stats.ratio and advantage are (M,), and so is this."""
    return (1 + clip_range * torch.tanh((stats.ratio - 1) / clip_range)) * advantage


def main() -> None:
    """Train with both, and say how far each moved the policy in its last update."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps to train for, each")
    steps = parser.parse_args().steps
    for surrogate in ("clip", "squashed"):
        agent = rlkit_es.PPO("Pendulum-v1", surrogate=surrogate, num_envs=8, rollout_steps=64).learn(steps)
        mean = rlkit_es.evaluate(agent, episodes=5).return_mean
        print(f"{surrogate}: return {mean:.0f}, E|r - 1| {agent.metrics['ratio_deviation']:.3f}")


if __name__ == "__main__":
    main()
