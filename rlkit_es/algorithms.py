"""The importable algorithms, each a thin face of its recipe, and what is done with any of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from rlkit_es.agent import Algorithm
from rlkit_es.errors import UserError
from rlkit_es.runs.experiment import go_on
from rlkit_es.runs.resume import continued, open_together
from rlkit_es.runs.saved_agent import read_saved
from rlkit_es.training.callbacks import Callback, Logger, check_hooks
from rlkit_es.training.checkpoint import restored
from rlkit_es.training.config import as_settings
from rlkit_es.training.evaluate import Evaluation, evaluate_policy
from rlkit_es.training.joining import current_ranks
from rlkit_es.training.seeds import LARGEST_SEED
from rlkit_es.training.threads import kept_threads


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


ALGORITHMS: dict[str, type[Algorithm]] = {
    each.recipe: each for each in (PPO, TRPO, ESPO, SDPPO, SDTRPO, SDESPO, SPO, R2VPO, AdaptivePPO)
}


def load(
    path: str | Path, *, checkpoint: str | int = "last", device: str = "auto", **changes: Any
) -> Algorithm:
    """`Algorithm.load` of the class that the file is of."""
    loaded, config = read_saved(path, checkpoint, {"device": device, **changes})
    return ALGORITHMS[config.algo].of(restored(loaded, config), from_file=True)


def resume(
    run_dir: str | Path,
    *,
    progress: bool = False,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    **changes: Any,
) -> Algorithm:
    """Go on with a run from its last checkpoint to where it is to end, as ``--resume`` does.

    Args:
        run_dir: of the run.
        progress: whether to show it on the terminal.
        loggers: beside those of the run directory.
        callbacks: that are called as training goes on; those of the first part are not remembered.
        changes: settings that may be otherwise from here on: `runs.resume.MAY_CHANGE`.

    Returns:
        the trained agent.

    Raises:
        CheckpointError: every checkpoint is damaged.
        UserError: there is no run, a setting may not change, or as of `Algorithm.learn`.
    """
    changes = as_settings(changes)
    check_hooks(loggers, callbacks)
    ranks = current_ranks()
    saved = open_together(Path(run_dir), ranks)
    for message in saved.warnings:
        warnings.warn(message, stacklevel=2)
    trainer, _ = continued(saved, changes, ranks)
    with kept_threads():
        go_on(trainer, progress=progress, loggers=loggers, callbacks=callbacks)
    return ALGORITHMS[trainer.config.algo].of(trainer)


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

    Raises:
        UserError: there are no episodes, the seed is out of range, or the environment failed or is not the
            one that the agent is for.
    """
    if not _is_whole(episodes) or episodes < 1:
        raise UserError(f"episodes must be a whole number of at least 1, got {episodes!r}")
    if seed is not None and not (_is_whole(seed) and 0 <= seed <= LARGEST_SEED):
        raise UserError(f"seed must be a whole number from 0 to {LARGEST_SEED}, got {seed!r}")
    if not isinstance(agent, Algorithm):
        raise UserError(f"evaluate takes an agent, got {agent!r}: rlkit_es.load(path) makes one of a file")
    agent._require_environment()
    return evaluate_policy(
        agent.policy,
        agent.config,
        agent.spaces,
        episodes=int(episodes),
        seed=None if seed is None else int(seed),
        deterministic=deterministic,
        env_steps=agent.env_steps,
    )


def _is_whole(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)
