"""The importable algorithms: each a thin face of its recipe."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch

from rlkit_es.errors import UserError
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation, evaluate_policy
from rlkit_es.training.experiment import run
from rlkit_es.training.trainer import Trainer


class Algorithm:
    """Trains and holds one policy.

    Args:
        env: environment id, as for the command line.
        seed: fixes everything that is random.
        preset: name of a published experiment whose settings to start from, as for the command line.
        settings: any other field of `Config`, by name.

    Raises:
        UserError: a setting or the environment cannot be used; the message says what to write.
    """

    recipe: ClassVar[str]

    def __init__(self, env: str, *, seed: int = 0, preset: str | None = None, **settings: Any) -> None:
        self.config = Config.for_algorithm(self.recipe, preset=preset, env=env, seed=seed, **settings)
        self._trainer = Trainer(self.config)
        self.policy = self._trainer.policy
        self._generator = torch.Generator().manual_seed(seed)

    def learn(self, total_steps: int, *, progress: bool = False) -> Self:
        """Train for ``total_steps`` environment steps; again to go on, with the schedule run anew.

        With ``run_dir`` set, the run is recorded there and evaluated at the end, as on the command line;
        a directory holds one run, so `learn` is then called once.
        """
        run(self._trainer, total_steps, progress=progress)
        return self

    def predict(self, observation: np.ndarray, *, deterministic: bool = True) -> np.ndarray:
        """Actions for raw observations, ready for ``env.step``.

        Args:
            observation: (O,) one, or (N, O) a batch; Dict observations flattened in key order.
            deterministic: the mode; False samples.

        Returns:
            (*shape,) or (N, *shape) float32 within the bounds, or integers for discrete actions.
        """
        array = np.asarray(observation, dtype=np.float32)
        size = self._trainer.observation_size
        if array.ndim not in (1, 2) or array.shape[-1] != size:
            raise UserError(f"observation must have shape ({size},) or (N, {size}), got {array.shape}")
        batch = torch.from_numpy(np.atleast_2d(array)).to(self._trainer.device)
        noise = None
        if not deterministic:
            noise = self.policy.distribution.noise((len(batch),), self._generator).to(batch.device)
        with torch.no_grad():
            action = self.policy.env_action(self.policy.act(batch, noise)).cpu().numpy()
        result: np.ndarray = action if array.ndim == 2 else action[0]
        return result

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last iteration; empty before the first."""
        return dict(self._trainer.metrics)

    @property
    def env_steps(self) -> int:
        """Environment steps trained for so far."""
        return self._trainer.progress.env_steps

    def close(self) -> None:
        """Free the environments; `predict` goes on working."""
        self._trainer.close()


class PPO(Algorithm):
    """Proximal policy optimisation with the clipped surrogate (arXiv:1707.06347)."""

    recipe = "ppo"


class TRPO(Algorithm):
    """Trust region policy optimisation: one natural-gradient step within a KL (arXiv:1502.05477)."""

    recipe = "trpo"


class ESPO(Algorithm):
    """Early stopping policy optimisation: unclipped, stopped by E|r - 1| (arXiv:2202.00079)."""

    recipe = "espo"


class SDPPO(Algorithm):
    """PPO with sample dropout (arXiv:2302.02299)."""

    recipe = "sd_ppo"


class SDTRPO(Algorithm):
    """TRPO with sample dropout by the divergence at a trial step (arXiv:2302.02299)."""

    recipe = "sd_trpo"


class SDESPO(Algorithm):
    """ESPO with sample dropout (arXiv:2302.02299)."""

    recipe = "sd_espo"


class SPO(Algorithm):
    """Simple policy optimisation: a quadratic penalty in place of the clip (arXiv:2401.16025)."""

    recipe = "spo"


class R2VPO(Algorithm):
    """Ratio-variance regularised policy optimisation, by a dual variable (arXiv:2605.26784)."""

    recipe = "r2vpo"


class AdaptivePPO(Algorithm):
    """PPO with a learning rate that follows the KL, as in rsl_rl (arXiv:2109.11978)."""

    recipe = "ppo_adaptive"


def evaluate(
    agent: Algorithm, episodes: int = 10, *, seed: int | None = None, deterministic: bool = True
) -> Evaluation:
    """Whole episodes on environments that training did not use.

    Args:
        agent: left as it is: the normaliser does not count evaluation.
        episodes: how many, at least 1.
        seed: of the environments; None derives one from the agent's.
        deterministic: the mode of the policy; False samples.

    Returns:
        raw ``returns`` and ``lengths``, with ``return_mean`` and ``return_std``.
    """
    if episodes < 1:
        raise UserError(f"episodes must be at least 1, got {episodes}")
    return evaluate_policy(
        agent.policy,
        agent.config,
        episodes=episodes,
        seed=seed,
        deterministic=deterministic,
        env_steps=agent.env_steps,
    )
