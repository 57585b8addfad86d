"""Everything that a run depends on, as one frozen and validated value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlkit_es.errors import UserError, check_counts, check_name, check_range, check_types, suggestion
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.recipes import fill_slots, find_recipe
from rlkit_es.models.networks import NETWORKS
from rlkit_es.training.presets import preset_settings


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
    """Environment id: of Gymnasium, of EnvPool, or module:id to import a module that registers it."""

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
    """Discount. 0.99 looks some 100 steps ahead, 0.995 some 200."""

    gae_lambda: float = 0.95
    """GAE's lambda: lower trusts the critic more and is less noisy."""

    network: str = "mlp"
    """mlp, or one of your own that you registered."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Width of each hidden layer, for the actor and for the critic. Wider for large observations."""

    activation: Literal["tanh", "relu", "elu", "silu"] = "tanh"
    """tanh is the steady choice for on-policy locomotion."""

    log_std_init: float = -0.5
    """Initial log standard deviation of continuous actions. 0 explores widely, -0.5 learns faster
    on most locomotion tasks, -1 and below hardly explores."""

    normalize_observations: bool = True
    """Shift and scale observations by running statistics, frozen within an iteration."""

    observation_clip: float = 10.0
    """Bound of a normalised observation."""

    normalize_rewards: bool = True
    """Scale rewards by the running deviation of the discounted return. Reported returns stay raw."""

    reward_clip: float = 10.0
    """Bound of a scaled reward."""

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
    environment several whole ones. None: 250,000, or 4,000 of each environment if that is more; 0: a
    checkpoint at the start and at the end alone."""

    keep_checkpoints: int = 2
    """How many of the last checkpoints to keep, beside the best."""

    wandb: str | None = None
    """Weights & Biases project to log to as well; needs the extra wandb."""

    run_dir: Path | None = None
    """Directory of this run. The command line makes runs/<env>/<algo>/seed<seed>-<time> where it is
    left out; from Python nothing is then written."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto is the CPU, which is the faster one for small networks."""

    backend: Literal["auto", "envpool", "gymnasium", "gymnasium-async"] = "auto"
    """auto: EnvPool where it has the id and there is more than one environment, else Gymnasium in this
    process. gymnasium-async: a process for each environment, for slow ones."""

    torch_threads: int = 1
    """Threads of one tensor operation. 1 is fastest for small networks; the rest goes to physics."""

    env_threads: int = 0
    """Threads of EnvPool, over all groups, each of which has at least one; 0: one a core."""

    env_groups: int = 2
    """Groups of environments that take turns: while the policy acts for one, the others are simulated.
    1 waits for all of them at every step."""

    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the minibatch update (20 s the first time, then a few from the disk cache). auto: where
    there is a C++ compiler and the run is long enough to earn it."""

    def __post_init__(self) -> None:
        check_types(self, str, "a name", "algo", "env", "device")
        check_name("network", self.network, NETWORKS)
        check_types(
            self, bool, "True or False", "normalize_observations", "normalize_rewards", "scale_actions"
        )
        check_types(self, (Path, type(None)), "a path", "run_dir")
        check_types(self, (str, type(None)), "a name", "wandb")
        recipe = find_recipe(self.algo)
        super().__post_init__()
        fill_slots(recipe, self)  # refuses what cannot apply
        check_counts(
            self,
            "total_steps",
            "num_envs",
            "rollout_steps",
            "torch_threads",
            "env_groups",
            "keep_checkpoints",
        )
        check_counts(self, "seed", "env_threads", "eval_episodes", "eval_every", least=0)
        if self.checkpoint_every is not None:
            check_counts(self, "checkpoint_every", least=0)
        check_range(self, "seed", high=2**63 - 1)
        check_range(self, "torch_threads", "env_threads", high=1024)
        check_range(self, "num_envs", high=1_000_000)
        check_range(self, "gamma", "gae_lambda", low=0, high=1)
        check_range(self, "log_std_init", low=-10, high=5)
        check_range(self, "observation_clip", "reward_clip", above=0)
        if not isinstance(self.hidden_sizes, tuple) or any(
            not isinstance(s, int) or s < 1 for s in self.hidden_sizes
        ):
            raise UserError(f"hidden_sizes must be positive whole numbers, got {self.hidden_sizes!r}")
        if self.minibatch_size > self.batch_size:
            raise UserError(
                f"minibatch_size {self.minibatch_size} is larger than the batch of {self.batch_size} "
                f"(num_envs {self.num_envs} x rollout_steps {self.rollout_steps}): lower it or collect more"
            )

    @property
    def batch_size(self) -> int:
        """B: rows of one rollout."""
        return self.num_envs * self.rollout_steps

    @property
    def segment_steps(self) -> int:
        """Environment steps from one checkpoint to the next; 0: all of them."""
        if self.checkpoint_every is None:
            return max(250_000, 4_000 * self.num_envs)
        return self.checkpoint_every

    @classmethod
    def for_algorithm(cls, algo: str, *, preset: str | None = None, **overrides: Any) -> Config:
        """The defaults of ``algo`` with those of ``preset``, and then ``overrides``, in their place.

        Raises:
            UserError: an unknown algorithm, preset or field (the closest is named), a preset that is
                not for this algorithm, or a value out of range.
        """
        recipe = find_recipe(algo)
        known = [f.name for f in dataclasses.fields(cls)]
        for name in overrides:
            if name not in known:
                raise UserError(f"unknown setting {name!r}; {suggestion(name, known)}")
        if isinstance(overrides.get("run_dir"), str):
            overrides["run_dir"] = Path(overrides["run_dir"])
        if isinstance(overrides.get("hidden_sizes"), list):
            overrides["hidden_sizes"] = tuple(overrides["hidden_sizes"])
        published = {} if preset is None else preset_settings(preset, algo)
        return cls(**{"algo": algo, **recipe.defaults, **published, **overrides})
