"""Train PPO on CartPole, evaluate it on fresh episodes, save it, and act with what was loaded.

Run it: ``python examples/train_and_evaluate.py``; ``--steps 2000`` is only a look at how it works.
"""

import argparse

import gymnasium as gym

import rlkit_es

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=40_000, help="environment steps to train for")


def main() -> None:
    """Train, evaluate, save, load, act."""
    steps = parser.parse_args().steps
    agent = rlkit_es.PPO("CartPole-v1", seed=0, num_envs=8, rollout_steps=128)
    agent.learn(steps, progress=True)
    result = rlkit_es.evaluate(agent, episodes=10)
    print(f"{result.return_mean:.1f} +- {result.return_std:.1f} over {result.episodes} episodes")

    agent.save("cartpole.safetensors")  # normalisers included
    loaded = rlkit_es.load("cartpole.safetensors")
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=1)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(loaded.predict(observation))
        total += float(reward)
        over = terminated or truncated
    print(f"one episode by hand: {total:.0f}")


if __name__ == "__main__":
    main()
