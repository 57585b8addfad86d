"""An environment of your own: register it with Gymnasium, and name it.

Run it: ``python examples/custom_env.py``. From the command line, with this folder as the current one:
``python -m rlkit_es.run --algo ppo --env custom_env:Target-v0 --num-envs 8 --total-steps 20000``.
"""

import argparse

import gymnasium as gym
import numpy as np

import rlkit_es


class Target(gym.Env):
    """Move along a line to where it is 0; the task ends there, the clock after 50 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-0.2, 0.2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 1, size=1).astype(np.float32)
        return self.position, {}

    def step(self, action):
        self.position = self.position + action
        distance = float(abs(self.position[0]))
        return self.position, -distance, distance < 0.05, False, {}


gym.register("Target-v0", Target, max_episode_steps=50)  # the clock truncates, the task terminates

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps to train for")
    agent = rlkit_es.PPO("Target-v0", num_envs=8, rollout_steps=64).learn(parser.parse_args().steps)
    print(f"mean return {rlkit_es.evaluate(agent, episodes=10).return_mean:.2f}")
