"""The one training loop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import torch

from rlkit_es.core.discount import discount_at
from rlkit_es.envs.vector_env import VectorEnv, env_seeds
from rlkit_es.errors import NonFiniteError
from rlkit_es.learners.compilation import should_compile
from rlkit_es.learners.diagnostics import policy_shift
from rlkit_es.learners.learner import make_learner
from rlkit_es.learners.recording import Record, recorder
from rlkit_es.learners.requests import Requests, Turn, carried_out
from rlkit_es.models.normalizers import RewardScaler
from rlkit_es.ranks import Ranks
from rlkit_es.training.batches import prepare_batch
from rlkit_es.training.callbacks import Hooks, Logger
from rlkit_es.training.config import Config
from rlkit_es.training.device import resolve_device
from rlkit_es.training.environments import make_envs, require_spaces, spaces_of
from rlkit_es.training.episodes import EpisodeTracker
from rlkit_es.training.evaluate import Evaluation, evaluate_policy
from rlkit_es.training.joining import current_ranks
from rlkit_es.training.memory import memory_errors_said
from rlkit_es.training.policy import make_policy
from rlkit_es.training.progress import Progress, crosses
from rlkit_es.training.rollout import RolloutCollector
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.training.shares import cores, require_agreement, share_of
from rlkit_es.training.threads import acting_threads
from rlkit_es.types import Spaces

_NOT_EVALUATED = {"evaluation_return_mean": float("nan"), "evaluation_return_std": float("nan")}


class Trainer:
    """Envs, policy and learner of one run; `train` may be called again to go on.

    A run is a sequence of segments, each of which ends at a multiple of ``config.segment_steps``
    steps, or where training ends. In every segment the environments begin anew with seeds of their
    own, so that what the simulators hold need not be saved to go on exactly from the end of one. The
    episodes that are cut count as truncated: the last value is bootstrapped, their returns are not
    reported.

    Training sets the process's number of torch threads to ``config.torch_threads``.

    Args:
        config: the settings.
        spaces: of the environment, whose making is then put off until it is needed; None: as it has them.
        ranks: that train together, each with its share of the environments; None: those of the launch
            that this process is of. Every rank makes a trainer, and does with it what the others do.

    Raises:
        UserError: the environment, the device or the backend cannot be used, the networks do not fit into
            memory, or the ranks do not agree.
    """

    def __init__(self, config: Config, spaces: Spaces | None = None, ranks: Ranks | None = None) -> None:
        self.ranks = current_ranks() if ranks is None else ranks
        require_agreement(config, self.ranks)
        self.config = config
        self.share = share_of(config, self.ranks)
        self.progress = Progress()
        self.device = resolve_device(config.device, self.ranks)
        self.seeds = derive_seeds(config.seed, self.ranks.rank)
        self.envs: list[VectorEnv] = [] if spaces is not None else make_envs(self.share)
        self.spaces = spaces or spaces_of(self.envs[0])
        self.generators = {
            "minibatches": torch.Generator().manual_seed(self.seeds.minibatches),
            "action_noise": torch.Generator().manual_seed(self.seeds.action_noise),
        }
        with memory_errors_said():
            self.policy = make_policy(config, self.spaces, self.seeds.networks).to(self.device)
            self.learner = make_learner(
                config.algo,
                self.policy,
                self.share,
                self.generators["minibatches"],
                watch_stop=self.device.type == "cpu",
                ranks=self.ranks,
            )
        self.reward_scaler = (
            RewardScaler(self.share.num_envs, config.gamma, config.reward_clip).to(self.device)
            if config.normalize_rewards
            else None
        )
        self.episodes = EpisodeTracker(self.share.num_envs)
        self.metrics: dict[str, float] = {}
        self.stop_reason: str | None = None
        """What `request_stop` was given; None where training was not asked to stop."""
        self.recorded = False
        """Whether this run has begun its run directory."""

    def train(self, total_steps: int, hooks: Hooks | None = None) -> None:
        """Train for ``total_steps`` more environment steps, over which the schedules run once.

        Raises:
            NonFiniteError: naming the quantity and the iteration.
            UserError: compilation was asked for and is not possible, an environment failed, or a
                file cannot be written.
        """
        self.begin_stage(total_steps)
        self.go_on(hooks or Hooks())

    def begin_stage(self, total_steps: int) -> None:
        """Have `go_on` train for ``total_steps`` from here."""
        self.config = dataclasses.replace(self.config, total_steps=total_steps)
        self.progress.begin_stage(total_steps)
        self.stop_reason = None

    def go_on(self, hooks: Hooks) -> None:
        """Train until the stage that was begun ends, or a callback asks to stop; raises as `train`."""
        carried_out(self.going_on(hooks))

    def going_on(self, hooks: Hooks) -> Requests[None]:
        """`go_on`, whose iterations and whose loops over minibatches are asked for."""
        torch.set_num_threads(self.config.torch_threads or cores(self.ranks))
        if self.compiles(self.config)[0]:
            self.learner.compile(required=self.config.compile == "on")
        self._save(hooks)  # from here on there is something to go back to
        try:
            while not self.finished:
                yield from self._train_segment(self.begin_segment(), hooks)
                self.progress.segment += 1
                self._save(hooks)
        except BaseException:
            self.close()  # environments in the middle of a step are of no more use
            raise

    def begin_segment(self) -> RolloutCollector:
        """Environments anew: nothing of what they held before has an effect from here on."""
        self.envs = self.envs or make_envs(self.share)
        require_spaces(self.config.env, self.envs[0], self.spaces)
        self._copy_from_first()
        self.episodes.abandon()
        if self.reward_scaler is not None:
            self.reward_scaler.running.zero_()
        return RolloutCollector(
            self.envs,
            self.config.rollout_steps,
            generator=self.generators["action_noise"],
            seeds=self._env_seeds(),
            device=self.device,
            record=self._recorder(),
        )

    def _recorder(self) -> Record | None:
        mode = self.config.compile
        return None if mode == "off" else recorder(self.device, required=mode == "on")

    def _env_seeds(self) -> list[int]:
        """Of this rank's environments: what they would be as some of all those of one process."""
        seeds = env_seeds(self.seeds.envs, self.config.num_envs, self.progress.segment)
        each = self.share.num_envs
        return seeds[self.ranks.rank * each :][:each]

    def _copy_from_first(self) -> None:
        """What is learned is the same on all ranks from here on, even if it had come to differ."""
        scaler = {} if self.reward_scaler is None else self.reward_scaler.state_dict()
        learned = (self.policy.state_dict(), scaler, self.learner.state_tensors())
        for tensor in (tensor for tensors in learned for tensor in tensors.values()):
            self.ranks.copy_from_first(tensor)

    def compiles(self, config: Config) -> tuple[bool, str]:
        """Whether the update would be compiled with ``config``, and why; raises as `should_compile`."""
        pixels = self.spaces.observation.pixels
        # Of all stages so far: once compiled, the update stays so in those that follow.
        steps = self.progress.stage_begin + config.total_steps
        return should_compile(config.compile, steps, self.device, pixels=pixels, ranks=self.ranks.size)

    def evaluate(self, episodes: int, seed: int | None = None) -> Evaluation:
        """`evaluate_policy` of the policy as it is: by the first rank, for which the others wait."""
        evaluation = None
        if self.ranks.first:
            steps = self.progress.env_steps
            evaluation = evaluate_policy(
                self.policy, self.config, self.spaces, episodes=episodes, seed=seed, env_steps=steps
            )
        evaluation = self.ranks.from_first(evaluation)
        assert evaluation is not None
        return evaluation

    def request_stop(self, reason: str) -> None:
        """Make this iteration the last one, and say why."""
        self.stop_reason = reason

    @property
    def finished(self) -> bool:
        """Whether training has come to its end, or was asked to stop."""
        return self.progress.stage_over or self.stop_reason is not None

    def close(self) -> None:
        """Free the environments; more training makes them anew."""
        for envs in self.envs:
            envs.close()
        self.envs = []

    def _train_segment(self, collector: RolloutCollector, hooks: Hooks) -> Requests[None]:
        config, progress = self.config, self.progress
        while True:
            before = progress.env_steps
            self.metrics = metrics = yield from self._iterate(collector)
            if config.eval_every:
                due = crosses(before, progress.env_steps, config.eval_every)
                metrics |= self._evaluate(hooks) if due else _NOT_EVALUATED
            for logger in self._loggers(hooks):
                logger.log(dict(metrics))
            for callback in hooks.callbacks:
                callback.on_iteration(self, dict(metrics))
            self._agree_on_stop()
            if self.finished or crosses(before, progress.env_steps, config.segment_steps):
                return

    def _iterate(self, collector: RolloutCollector) -> Requests[dict[str, float]]:
        """One rollout and the update on it."""
        self.progress.iteration += 1
        started = yield Turn(self.progress.iteration)
        remaining = self.progress.remaining
        gamma = discount_at(self.config.gamma, self.config.horizon_growth, remaining)
        try:
            with acting_threads():
                rollout = collector.collect(self.policy)
            prepared = prepare_batch(
                rollout,
                self.policy,
                self.reward_scaler,
                gamma=gamma,
                gae_lambda=self.config.gae_lambda,
                sign_rewards=self.config.sign_rewards,
                ranks=self.ranks,
            )
            update = yield from self.learner.updating(
                prepared.batch, self._learning_rate(remaining), remaining, prepared.estimator
            )
        except NonFiniteError as error:
            raise type(error)(f"iteration {self.progress.iteration}: {error}") from error
        shift = policy_shift(self.policy, prepared.batch, self.config.dropout_threshold, self.ranks)
        # Only now: the update saw the normaliser that the rollout was acted with.
        if self.policy.normalizer is not None:
            self.policy.normalizer.merge(rollout.observation.flatten(0, 1), prepared.batch.valid, self.ranks)
        self.episodes.track(rollout, self.ranks)
        steps, seconds = int(self.ranks.sum(rollout.valid.sum())), time.perf_counter() - started
        self.progress.env_steps += steps
        self.progress.wall_seconds += seconds
        return {
            "env_steps": self.progress.env_steps,
            "iteration": self.progress.iteration,
            "wall_seconds": self.progress.wall_seconds,
            "steps_per_second": steps / seconds,
            **self.episodes.means(),
            **shift,
            **update,
            "gamma": gamma,
            "explained_variance": prepared.explained_variance,
        }

    def _evaluate(self, hooks: Hooks) -> dict[str, float]:
        evaluation = self.evaluate(self.config.eval_episodes, seed=self.seeds.periodic_evaluation)
        if hooks.store is not None:
            hooks.store.save_if_best(self, evaluation.return_mean)
        for callback in hooks.callbacks:
            callback.on_evaluation(self, evaluation)
        return {
            "evaluation_return_mean": evaluation.return_mean,
            "evaluation_return_std": evaluation.return_std,
        }

    def _save(self, hooks: Hooks) -> None:
        if hooks.store is None:
            return
        for logger in self._loggers(hooks):
            logger.flush()
        if not self.config.eval_every:
            hooks.store.save_if_best(self, self.episodes.means()["episode_return_mean"])
        path = hooks.store.save(self)
        for callback in hooks.callbacks:
            callback.on_checkpoint(self, path)
        self._agree_on_stop()

    def _agree_on_stop(self) -> None:
        """If a callback asked one rank to stop, all do."""
        reasons = self.ranks.everyones(self.stop_reason)
        self.stop_reason = next((reason for reason in reasons if reason is not None), None)

    def _loggers(self, hooks: Hooks) -> Sequence[Logger]:
        return hooks.loggers if self.ranks.first else ()

    def _learning_rate(self, remaining: float) -> float:
        scheduled = self.config.learning_rate_schedule == "linear"
        return self.config.learning_rate * (remaining if scheduled else 1.0)
