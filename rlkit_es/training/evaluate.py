"""Evaluating a policy on environments of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rlkit_es.envs.registry import AtariSettings, make_vector_envs, usable_cores
from rlkit_es.envs.vector_env import VectorEnv, env_seeds, require_finite
from rlkit_es.errors import UserError
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.training.config import Config
from rlkit_es.training.environments import backend_of, require_spaces
from rlkit_es.training.episodes import Episode, RunningEpisodes
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.training.threads import acting_threads, threads
from rlkit_es.types import Spaces

MOST_ENVS = 16
_LONGEST_EPISODE = 1_000_000


@dataclass(frozen=True)
class Evaluation:
    """Raw returns of whole episodes."""

    env_steps: int  # environment steps the policy was trained for
    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def episodes(self) -> int:
        """How many."""
        return len(self.returns)

    @property
    def return_mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def return_std(self) -> float:
        """Population standard deviation of the returns over episodes (not over seeds)."""
        return float(np.std(self.returns))

    def as_dict(self) -> dict[str, object]:
        """For evaluation.json."""
        return {
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "return_mean": self.return_mean,
            "return_std": self.return_std,
        }


def evaluate_policy(
    policy: ActorCritic,
    config: Config,
    spaces: Spaces,
    *,
    episodes: int,
    seed: int | None = None,
    deterministic: bool = True,
    env_steps: int = 0,
) -> Evaluation:
    """Run whole episodes with the normaliser frozen.

    Args:
        policy: its parameters and statistics are left as they are.
        config: names the environment and the backend.
        spaces: what the policy is for.
        episodes: how many; each environment runs its share, so that short episodes are not favoured.
        seed: of the environments; None derives one that training does not use.
        deterministic: the mode of the policy rather than a sample.
        env_steps: recorded in the result.

    Raises:
        NonFiniteError: the environment returned a NaN or infinite observation or reward.
        UserError: it failed, has other spaces, or an episode has no end.
    """
    seed = derive_seeds(config.seed).evaluation if seed is None else seed
    num_envs = min(episodes, MOST_ENVS)
    backend, _ = backend_of(config)  # that of training
    (envs,) = make_vector_envs(
        config.env,
        num_envs,
        env_kwargs=config.env_kwargs,
        backend=backend,
        threads=config.env_threads,
        atari=AtariSettings(config.sticky_actions),  # whole games
    )
    generator = None if deterministic else torch.Generator().manual_seed(seed)
    try:
        require_spaces(config.env, envs, spaces)
        with threads(config.torch_threads or usable_cores()), acting_threads():
            return _run_episodes(policy, envs, episodes, seed, generator, env_steps)
    finally:
        envs.close()


@torch.no_grad()
def _run_episodes(
    policy: ActorCritic,
    envs: VectorEnv,
    episodes: int,
    seed: int,
    generator: torch.Generator | None,
    env_steps: int,
) -> Evaluation:
    n = envs.num_envs
    missing = np.array([len(range(i, episodes, n)) for i in range(n)])
    device = policy.action_low.device
    running, finished = RunningEpisodes(n), list[Episode]()
    observation = envs.reset(env_seeds(seed, n))
    while missing.any():
        require_finite(observation, "observation")
        noise = None if generator is None else policy.distribution.noise((n,), generator).to(device)
        action = policy.env_action(policy.act(observation.to(device), noise))
        envs.send(action.to(envs.device))
        step = envs.recv()
        require_finite(step.reward, "reward")
        observation = step.observation
        over = step.terminated | step.truncated
        for episode in running.add(step.reward.cpu().numpy(), step.valid.cpu().numpy(), over.cpu().numpy()):
            if missing[episode.env]:
                missing[episode.env] -= 1
                finished.append(episode)
        if running.length.max() > _LONGEST_EPISODE:
            raise UserError(
                f"an evaluation episode went on for over {_LONGEST_EPISODE:,} steps: give the environment "
                "a time limit, or evaluate nothing with --eval-episodes 0"
            )
    _, returns, lengths = zip(*finished, strict=True)
    return Evaluation(env_steps, returns, lengths)
