"""What a user holds: a policy with its training, to train on, ask for actions, save and load."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Never, Self

import numpy as np
import torch

from rlkit_es.errors import CheckpointError, UserError
from rlkit_es.runs.checkpoint_store import save_checkpoint
from rlkit_es.runs.experiment import run
from rlkit_es.runs.files import writing
from rlkit_es.runs.saved_agent import read_saved
from rlkit_es.training.callbacks import Callback, Logger, check_hooks
from rlkit_es.training.checkpoint import require_imported_environment, restored, take_checkpoint
from rlkit_es.training.config import Config, as_settings
from rlkit_es.training.idle import refuse_unrecorded
from rlkit_es.training.threads import kept_threads
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import Spaces


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

    recipe: ClassVar[str | None] = None

    def __init__(self, env: str, *, seed: int = 0, preset: str | None = None, **settings: Any) -> None:
        if self.recipe is None:
            raise UserError("Algorithm has no recipe: use one of its classes, such as PPO or ESPO")
        if "algo" in settings:
            raise UserError(f"{type(self).__name__} is {self.recipe}: leave algo out, or use another class")
        config = Config.for_algorithm(self.recipe, preset=preset, env=env, seed=seed, **settings)
        refuse_unrecorded(config)
        self._begin(Trainer(config))

    @classmethod
    def load(
        cls, path: str | Path, *, checkpoint: str | int = "last", device: str = "auto", **changes: Any
    ) -> Self:
        """What `save` or a run wrote. It predicts as it did; `learn` trains on from there.

        No code is run that the file holds, and no environment is made before one is needed.

        Args:
            path: a file, or a run directory.
            checkpoint: of a run directory: "last", "best", or environment steps.
            device: where it is to be from here on.
            changes: settings that are to be otherwise from here on, as for fine-tuning: another
                learning rate, another environment with the same spaces (which gets no `env_kwargs` but
                those given here), a run directory of its own. What the networks and their normaliser are
                made of cannot be.

        Raises:
            CheckpointError: it is damaged, or not one of this algorithm.
            UserError: there is none, or a setting that is unknown, or cannot be used or changed.
        """
        loaded, config = read_saved(path, checkpoint, {"device": device, **changes})
        if cls.recipe not in (None, config.algo):
            raise CheckpointError(f"{path} is of {config.algo}, not of {cls.recipe}: use rlkit_es.load")
        return cls.of(restored(loaded, config), from_file=True)

    @classmethod
    def of(cls, trainer: Trainer, *, from_file: bool = False) -> Self:
        """The agent that ``trainer``, of the same recipe, trains.

        Args:
            trainer: its own from here on.
            from_file: whether a file that may be a stranger's says what it is.
        """
        agent = cls.__new__(cls)
        agent._begin(trainer, from_file=from_file)
        return agent

    def save(self, path: str | Path) -> Path:
        """Write everything: policy, normalisers, optimiser and all that training goes on from.

        Of the ranks of a launch (torchrun) all call it, and the first writes.

        Args:
            path: .safetensors is added where it has no suffix; a file that is there is replaced, whole.

        Returns:
            where it was written.

        Raises:
            UserError: it cannot be written.
            NonFiniteError: a parameter is NaN or infinite.
        """
        if "\0" in str(path) or not os.path.basename(path):
            raise UserError(f"a file cannot be named {str(path)!r}")
        path = Path(path) if Path(path).suffix else Path(f"{path}.safetensors")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self._trainer, path)
        return path

    def learn(
        self,
        total_steps: int | None = None,
        *,
        progress: bool = False,
        loggers: Sequence[Logger] = (),
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Train for ``total_steps`` environment steps; call it again to go on, with the schedules run anew.

        With ``run_dir`` set, the run is recorded there and evaluated at the end, as on the command line.

        Args:
            total_steps: to add; None: those that the agent was made with, or, of one that was loaded,
                those of the last time that it learned.
            progress: whether to show it on the terminal.
            loggers: that take the metrics of every iteration.
            callbacks: that are called as training goes on.

        Raises:
            NonFiniteError: a quantity became NaN or infinite; the message names it.
            UserError: an environment failed, or a file cannot be written.
        """
        check_hooks(loggers, callbacks)
        self._require_environment()
        given = as_settings({"total_steps": self._total_steps if total_steps is None else total_steps})
        with kept_threads():
            run(self._trainer, **given, progress=progress, loggers=loggers, callbacks=callbacks)
        return self

    def predict(self, observation: np.ndarray, *, deterministic: bool = True) -> np.ndarray:
        """Actions for raw observations, ready for ``env.step``.

        Args:
            observation: (O,) one, or (N, O) a batch; what is no such array (a Dict, a Discrete number) as
                `gymnasium.spaces.flatten` gives it. Pictures are (C, H, W), or (N, C, H, W), uint8.
            deterministic: the mode; False samples.

        Returns:
            (*shape,) or (N, *shape) float32 within the bounds, or integers for discrete actions.
        """
        spec = self.spaces.observation
        array = _numbers(observation)
        batched = array.ndim == len(spec.shape) + 1
        if array.shape[batched:] != spec.shape:
            one = ", ".join(map(str, spec.shape))
            shapes = f"({one},) or (N, {one})" if len(spec.shape) == 1 else f"({one}) or (N, {one})"
            hint = "" if spec.pixels else ": gymnasium.spaces.flatten(env.observation_space, ...) makes it so"
            raise UserError(f"observation must have shape {shapes}, got {array.shape}{hint}")
        converted = array.astype(np.uint8 if spec.pixels else np.float32, order="C")
        if spec.pixels and not (array.dtype.kind in "iu" and np.array_equal(converted, array)):
            raise UserError(f"pictures must be uint8, 0 to 255, got {array.dtype}: leave them as they are")
        batch = torch.from_numpy(converted if batched else converted[None]).to(self._trainer.device)
        noise = None
        if not deterministic:
            noise = self.policy.distribution.noise((len(batch),), self._generator).to(batch.device)
        with torch.no_grad():
            action = self.policy.env_action(self.policy.act(batch, noise)).cpu().numpy()
        result: np.ndarray = action if batched else action[0]
        return result

    @property
    def config(self) -> Config:
        """Every setting."""
        return self._trainer.config

    @property
    def spaces(self) -> Spaces:
        """What `predict` takes, and what it returns."""
        return self._trainer.spaces

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.env!r}, env_steps={self.env_steps:,})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Another agent that is as far, with environments of its own; the run directory stays this one's."""
        config = dataclasses.replace(self.config, run_dir=None, wandb=None)
        copied = restored(take_checkpoint(self._trainer), config, self._trainer.ranks)
        agent = type(self).of(copied, from_file=self._from_file)
        agent._total_steps = self._total_steps
        return agent

    def __reduce__(self) -> Never:
        raise UserError(
            "an agent is not pickled: save(path) writes all of it, and rlkit_es.load(path) reads it"
        )

    def _begin(self, trainer: Trainer, *, from_file: bool = False) -> None:
        self._from_file = from_file
        self._trainer = trainer
        self.policy = trainer.policy
        self._total_steps = trainer.config.total_steps  # that of the trainer is of its last stage
        self._generator = torch.Generator().manual_seed(trainer.config.seed)

    def _require_environment(self) -> None:
        """Raises UserError: it is of a module that only a file, and nobody here, asked for."""
        if self._from_file:
            require_imported_environment(self.config)


def _numbers(observation: Any) -> np.ndarray:
    """Raises UserError: it is no array of numbers."""
    if isinstance(observation, torch.Tensor):
        observation = observation.detach().cpu()
    try:
        array = np.asarray(observation)
    except ValueError:  # of parts with different shapes
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        hint = ""
        if isinstance(observation, dict):
            hint = ": gymnasium.spaces.flatten makes an array of it"
        elif isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
            hint = ", which is what env.reset() returns: pass its first part"
        raise UserError(f"observation must be an array of numbers, got a {type(observation).__name__}{hint}")
    return array
