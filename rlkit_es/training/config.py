"""Everything that a run depends on, as one frozen and validated value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlkit_es.envs.env_kwargs import NO_KWARGS, frozen
from rlkit_es.envs.ids import LONGEST_GAME, is_atari, split_module
from rlkit_es.envs.registry import Backend
from rlkit_es.errors import UserError, check_counts, check_name, check_range, check_types
from rlkit_es.learners.compilation import CompileMode
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.recipes import Recipe, fill_slots, find_recipe
from rlkit_es.models.encoders import ENCODERS, Precision
from rlkit_es.models.networks import NETWORKS
from rlkit_es.training.defaults import env_defaults
from rlkit_es.training.idle import refuse_idle
from rlkit_es.training.other_names import hint
from rlkit_es.training.presets import preset_settings
from rlkit_es.training.seeds import LARGEST_SEED

_SWITCHES = ("normalize_observations", "normalize_rewards", "sign_rewards", "scale_actions", "episodic_life")


@dataclass(frozen=True, kw_only=True)
class Config(UpdateConfig):
    """One training run. `Config.for_algorithm` starts from the recipe's own defaults.

    Raises:
        UserError: a value cannot be used; the message says what to write instead.
    """

    algo: str
    """Recipe: ppo, trpo, espo, sd_ppo, sd_trpo, sd_espo, spo, r2vpo or ppo_adaptive; `rlkit-es algos`
    shows what each is made of."""

    env: str = "Humanoid-v4"
    """Environment id: of Gymnasium (HalfCheetah-v4), Atari (ALE/Pong-v5), DM Control
    (dm_control/cheetah-run-v0), EnvPool, or module:id to import a module that registers it."""

    env_kwargs: Mapping[str, Any] = NO_KWARGS
    """Arguments of the environment's constructor, as JSON has them: {"g": 5.0} for Pendulum-v1, say. The
    names are Gymnasium's, so backend auto takes Gymnasium; with backend envpool they are EnvPool's. None for
    Atari, which has settings of its own here."""

    total_steps: int = 1_000_000
    """Environment steps to train for, over all environments; the last iteration is finished."""

    seed: int = 0
    """Fixes networks, action noise, minibatches and every environment's own seed."""

    num_envs: int = 64
    """Environments stepped together (N). More collect faster, and need fewer rollout steps each."""

    rollout_steps: int = 32
    """Steps of each environment between updates (T). The batch is num_envs x rollout_steps; with
    episodes of 1000 steps, T of 32 learns from many moments at once, T of 2048 sees whole episodes."""

    gamma: float = 0.99
    """Discount; where `horizon_growth` is not 1, that of the start. 0.99 looks some 100 steps ahead, 0.995
    some 200."""

    horizon_growth: float = 1.0
    """How many times as long the horizon 1 / (1 - gamma) is at the end; it grows linearly over training. A
    short one is learned sooner, a long one knows what a fall costs. 2 takes 0.99 to 0.995; 1: `gamma`
    throughout."""

    gae_lambda: float = 0.95
    """GAE's lambda: lower trusts the critic more and is less noisy."""

    network: str = "mlp"
    """mlp, or one of your own that you registered."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Width of each hidden layer, of the actor, and of the critic if nothing else is said. Wider for large
    observations; none are needed after an encoder."""

    critic_hidden_sizes: tuple[int, ...] | None = None
    """The critic's where they are others; None: as the actor's. It is not what acts: a wide one costs time
    in the update alone."""

    encoder: str = "nature_cnn"
    """For pictures: nature_cnn, or one of your own that you registered. It comes before `network`."""

    share_encoder: bool | None = None
    """For pictures: one encoder for actor and critic, which is half the work; the critic moves it only
    as long as the policy may move. None: where the policy steps by Adam. A natural step needs two."""

    precision: Precision = "auto"
    """For pictures: arithmetic of the encoder. auto: bfloat16 where the hardware multiplies matrices of
    it (such a GPU, or a CPU with AMX or AVX512_BF16), which makes a run 1.7 to 2 times as fast."""

    activation: Literal["tanh", "relu", "elu", "silu"] = "tanh"
    """tanh is the steady choice for on-policy locomotion."""

    log_std_init: float = -0.75
    """Initial log standard deviation of continuous actions. 0 explores widely, which sparse rewards
    need; -0.75 learns faster on locomotion tasks; with -1 Ant learns faster still, but Hopper and some
    seeds of Walker2d settle for standing still."""

    normalize_observations: bool = True
    """Shift and scale observations by running statistics, frozen within an iteration."""

    observation_clip: float = 10.0
    """Bound of a normalised observation."""

    normalize_rewards: bool = True
    """Scale rewards by the running deviation of the return, discounted by `gamma`. Reported returns stay
    raw."""

    reward_clip: float = 10.0
    """Bound of a scaled reward."""

    sign_rewards: bool = False
    """Learn from -1, 0 or 1 in place of each reward, as is usual on Atari, where points differ in size
    from game to game. Reported returns stay raw."""

    episodic_life: bool = True
    """Atari alone: a lost life ends what is learned from, and not the game, nor its reported score. Many
    games are learned faster so."""

    sticky_actions: float = 0.0
    """Atari alone: probability that a frame repeats the action before. 0 as in most papers on policy
    gradients; 0.25 as Machado et al. recommend."""

    scale_actions: bool = True
    """Map [-1, 1] onto the bounds of a bounded action space. False: clip to the bounds."""

    eval_episodes: int = 10
    """Episodes of the deterministic evaluation at the end, on environments with seeds of their own;
    0: none."""

    eval_every: int = 0
    """Environment steps between evaluations during training, of `eval_episodes` each; 0: none. The
    best checkpoint is then the best by these, else by the return of the last 100 training episodes."""

    checkpoint_every: int | None = None
    """Environment steps between checkpoints, at each of which the environments begin anew: so a run
    that was killed goes on exactly. Fewer lose less to a crash, and cut more episodes: leave each
    environment several whole ones. None: 250,000, or 4,000 of each environment (of Atari 27,000, the
    longest game) if that is more; 0: a checkpoint at the start and at the end alone."""

    keep_checkpoints: int = 2
    """How many of the last checkpoints to keep, beside the best."""

    wandb: str | None = None
    """Weights & Biases project to log to as well; needs the extra wandb."""

    run_dir: Path | None = None
    """Directory of this run. The command line makes runs/<env>/<algo>/seed<seed>-<time> where it is
    left out; from Python nothing is then written."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto is the CPU, which is the faster one for small networks."""

    backend: Backend = "auto"
    """auto: ale-py's own for Atari, EnvPool where it has the id and there is more than one environment,
    else Gymnasium in this process. gymnasium-async: a process for each environment, for slow ones.
    gymnasium-vector: environments that step themselves all at once, by their id's vector_entry_point."""

    torch_threads: int = 1
    """Threads of one tensor operation. 1 is fastest for small networks; the rest goes to physics. 0: one
    a core, for convolutions."""

    env_threads: int = 0
    """Threads of EnvPool or ale-py, over all groups, each of which has at least one; 0: one a core."""

    env_groups: int = 2
    """Groups of environments that take turns: while the policy acts for one, the others are simulated.
    1 waits for all of them at every step."""

    compile: CompileMode = "auto"
    """Compile the minibatch update (15 to 60 s the first time, then a few from the disk cache). auto: where
    there is a C++ compiler and the run is long enough to earn it. On a GPU the update and acting are
    recorded as CUDA graphs instead."""

    def __post_init__(self) -> None:
        self._check_kinds()
        recipe = find_recipe(self.algo)
        super().__post_init__()
        fill_slots(recipe, self)  # refuses what cannot apply
        self._check_ranges()
        self._check_pictures()
        self._fit_minibatch(recipe)

    def _check_kinds(self) -> None:
        check_types(self, str, "a name", "algo", "device")
        if not isinstance(self.env, str):
            raise UserError(
                f"env must be an id, got {self.env!r}: give the id of an environment, "
                "your own after gymnasium.register"
            )
        object.__setattr__(self, "env_kwargs", frozen(self.env_kwargs))
        check_name("network", self.network, NETWORKS)
        check_name("encoder", self.encoder, ENCODERS)
        check_types(self, bool, "True or False", *_SWITCHES)
        check_types(self, (bool, type(None)), "True, False or None", "share_encoder")
        check_types(self, (Path, type(None)), "a path", "run_dir")
        check_types(self, (str, type(None)), "a name", "wandb")

    def _check_ranges(self) -> None:
        check_counts(self, "total_steps", "num_envs", "rollout_steps", "env_groups", "keep_checkpoints")
        check_counts(self, "seed", "env_threads", "torch_threads", "eval_episodes", "eval_every", least=0)
        if self.eval_every and not self.eval_episodes:
            raise UserError("eval_every needs episodes to evaluate: set eval_episodes to 1 or more")
        if self.checkpoint_every is not None:
            check_counts(self, "checkpoint_every", least=0)
        check_range(self, "seed", high=LARGEST_SEED)
        check_range(self, "torch_threads", "env_threads", high=1024)
        check_range(self, "num_envs", high=1_000_000)
        check_range(self, "gamma", "gae_lambda", "sticky_actions", low=0, high=1)
        check_range(self, "horizon_growth", low=1, high=1000)
        check_range(self, "log_std_init", low=-10, high=5)
        check_range(self, "observation_clip", "reward_clip", above=0)
        _check_sizes("hidden_sizes", self.hidden_sizes)
        if self.critic_hidden_sizes is not None:
            _check_sizes("critic_hidden_sizes", self.critic_hidden_sizes)

    def _check_pictures(self) -> None:
        if self.sign_rewards and self.normalize_rewards:
            raise UserError(
                "sign_rewards and normalize_rewards both change the size of rewards: choose one with "
                "--no-normalize-rewards or --no-sign-rewards"
            )
        if self.sticky_actions and not is_atari(self.env):
            raise UserError(f"sticky_actions are for Atari (ALE/Pong-v5), not for {self.env}: set it to 0")
        if self.env_kwargs and is_atari(self.env):
            raise UserError(
                f"env_kwargs are not for Atari, which is played by its usual protocol: set sticky_actions or "
                f"episodic_life, and leave out {', '.join(self.env_kwargs)}"
            )
        if self.share_encoder and find_recipe(self.algo).step == "natural":
            raise UserError(
                "share_encoder cannot apply to a natural step: the critic's epochs would move the policy out "
                "of its trust region; leave it out"
            )

    def _fit_minibatch(self, recipe: Recipe) -> None:
        """Lower a minibatch of the usual size to the batch, and refuse another that is larger."""
        usual = _defaults(recipe, self.env).get("minibatch_size", UpdateConfig.minibatch_size)
        if self.batch_size < self.minibatch_size == usual:
            object.__setattr__(self, "minibatch_size", self.batch_size)
        if self.minibatch_size > self.batch_size:
            raise UserError(
                f"minibatch_size {self.minibatch_size} is larger than the batch of {self.batch_size} "
                f"(num_envs {self.num_envs} x rollout_steps {self.rollout_steps}): lower it or collect more"
            )

    @property
    def shares_encoder(self) -> bool:
        """`share_encoder`, or what the recipe's step allows."""
        natural = find_recipe(self.algo).step == "natural"
        return not natural if self.share_encoder is None else self.share_encoder

    @property
    def sizes_of_critic(self) -> tuple[int, ...]:
        """`critic_hidden_sizes`, or the actor's."""
        return self.hidden_sizes if self.critic_hidden_sizes is None else self.critic_hidden_sizes

    @property
    def moves_to_the_end(self) -> bool:
        """Whether a setting moves linearly over training, so that it depends on where that ends."""
        schedules = [field.name for field in dataclasses.fields(self) if field.name.endswith("_schedule")]
        horizon_moves = self.horizon_growth != 1 and self.gamma != 1
        return horizon_moves or any(getattr(self, name) == "linear" for name in schedules)

    @property
    def env_module(self) -> str:
        """The module that `env` says to import; empty where it names none."""
        return split_module(self.env)[0]

    @property
    def batch_size(self) -> int:
        """B: rows of one rollout."""
        return self.num_envs * self.rollout_steps

    @property
    def segment_steps(self) -> int:
        """Environment steps from one checkpoint to the next; 0: all of them."""
        if self.checkpoint_every is None:
            return max(250_000, (LONGEST_GAME if is_atari(self.env) else 4_000) * self.num_envs)
        return self.checkpoint_every

    @classmethod
    def for_algorithm(cls, algo: str, *, preset: str | None = None, **overrides: Any) -> Config:
        """The defaults of ``algo``, then of the kind of environment, of ``preset``, then ``overrides``.

        Raises:
            UserError: an unknown algorithm, preset or field (the closest is named), a preset that is
                not for this algorithm, or a value out of range.
        """
        recipe = find_recipe(algo)
        overrides = as_settings(overrides)
        published = {} if preset is None else preset_settings(preset, algo)
        usual = {"algo": algo, **_defaults(recipe, str(overrides.get("env", cls.env))), **published}
        config = cls(**{**usual, **overrides})
        refuse_idle(config, usual)
        return config


def _defaults(recipe: Recipe, env_id: str) -> dict[str, Any]:
    """In what ``recipe`` differs from the fields' own defaults on environments like that."""
    return {**recipe.defaults, **env_defaults(env_id, recipe)}


def _check_sizes(name: str, sizes: object) -> None:
    if not isinstance(sizes, tuple) or any(type(size) is not int or size < 1 for size in sizes):
        raise UserError(f"{name} must be a tuple of positive whole numbers, (64, 64) say, got {sizes!r}")


def as_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a user wrote, as `Config` has it: paths, tuples, numbers that are not NumPy's.

    Raises:
        UserError: one of them is no field of `Config`; the closest is named.
    """
    require_known(given)
    settings = {k: v.tolist() if isinstance(v, (np.generic, np.ndarray)) else v for k, v in given.items()}
    if "env_kwargs" in settings:
        settings["env_kwargs"] = frozen(settings["env_kwargs"])
    if isinstance(settings.get("run_dir"), str):
        settings["run_dir"] = Path(settings["run_dir"])
    for name in ("hidden_sizes", "critic_hidden_sizes"):
        if isinstance(sizes := settings.get(name), (list, tuple)):
            settings[name] = tuple(s.item() if isinstance(s, np.generic) else s for s in sizes)
    return settings


def require_known(settings: Iterable[str]) -> None:
    """Raises UserError: one of them is no field of `Config`; the closest is named."""
    known = [field.name for field in dataclasses.fields(Config)]
    for name in settings:
        if name not in known:
            raise UserError(f"unknown setting {name!r}; {hint(name, known)}")
