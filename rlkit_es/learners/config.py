"""Hyperparameters of the update, each with how to choose it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from rlkit_es.core.adaptation import LARGEST_PENALTY
from rlkit_es.errors import check_choices, check_counts, check_name, check_range, check_types
from rlkit_es.learners.slots import DATA, SLOTS, names


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """What one update does with one batch."""

    minibatch_size: int = 256
    """Samples of a minibatch (M). Larger is faster on a GPU and takes fewer, less noisy steps; with
    early stopping it also makes each measured deviation more exact. Usually 64 to 1/4 of the batch; the
    default is the whole batch where that is smaller. The advantage of one sample alone, normalised, is 0:
    minibatches of 1 move the policy only with `advantage_normalization` none or batch."""

    epochs: int = 10
    """Passes over the batch for the policy, at most. More uses each sample more, and moves further."""

    critic_epochs: int | None = 10
    """Passes over the batch for the critic, whatever the policy does. None: the critic stops when the
    policy stops, as in the ESPO authors' code; it then sees few updates where the policy stops early."""

    recompute_advantages: bool = False
    """Advantages and value targets anew before every epoch but the first, by the critic as it is by then
    (Andrychowicz et al., arXiv:2006.05990): late epochs do not learn from what it believed before."""

    learning_rate: float = 3e-4
    """Adam step size. The first thing to lower when returns collapse, and to raise when the deviation
    of the ratio stays far under its threshold. A natural step has none: it is the critic's alone."""

    critic_learning_rate: float | None = None
    """Adam step size of the critic; None: the policy's."""

    log_std_learning_rate: float | None = None
    """Adam step size of the log standard deviation of continuous actions; None: the policy's. It is one
    number an action dimension, and each step moves it by no more than this, while a network's output
    moves with all of its weights: a policy that stops after few steps hardly learns it otherwise."""

    learning_rate_schedule: Literal["linear", "constant", "adaptive_kl"] = "linear"
    """linear: to 0 at the end of training, better for a final score. constant: for open-ended runs.
    adaptive_kl: up and down by 1.5 to keep each minibatch's KL near `max_kl`, as in rsl_rl."""

    common_gradient: float = 1.0
    """How much counts of what all samples of a minibatch have in common, in the surrogate's gradient by the
    policy network's outputs. 1: all of it. Features of pictures are much the same in all states, so that a
    step is mostly one that makes an action more likely everywhere, and an early stop ends it there. 0: only
    what tells states apart is learned, and nothing that is good in all of them alike. Entropy bonus and
    constraint count whole."""

    adam_epsilon: float = 1e-5
    """Adam's epsilon. 1e-5 is usual in on-policy learning; larger damps steps of rare gradients."""

    max_grad_norm: float = 0.5
    """Largest norm of the gradient of actor and critic together; larger gradients are scaled down to
    it. inf: no bound."""

    value_coefficient: float = 0.5
    """Weight of the value loss. With separate networks it matters only through `max_grad_norm`."""

    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus. 0 for locomotion; 0.01 where discrete actions settle too soon."""

    advantage_normalization: Literal["minibatch", "batch", "none"] = "minibatch"
    """Where advantages get mean 0 and standard deviation 1. batch keeps their sizes comparable
    between minibatches; none is for rewards whose scale is known."""

    surrogate: str | None = None
    """The objective: ratio, ratio_minus_one, clip, spo, or one of your own; None: the recipe's."""

    mask: str | None = None
    """Which samples may move the policy: keep_all, ratio_within, ratio_below, ratio_above,
    ratio_log_symmetric, kl_below, kl_within, or one of your own; None: the recipe's."""

    stop: str | None = None
    """When the policy has moved far enough on this batch: never, ratio_deviation, mean_kl, or one of
    your own; None: the recipe's."""

    constraint: str | None = None
    """What a dual variable holds under `constraint_limit` on average: none, ratio_variance, kl, or one
    of your own; None: the recipe's."""

    clip_range: float = 0.2
    """eps of the clipped and of the spo surrogate: how far a ratio may profitably move. 0.1 to 0.3."""

    dropout_threshold: float = 0.5
    """delta of sample dropout: samples with |r - 1| at or above it are dropped. Smaller bounds the
    variance tighter and uses fewer samples. inf drops nothing. Nor does one so small (1e-9) that no
    sample of a minibatch is under it, since all are then kept; `kept_fraction` in the metrics is near 0."""

    dropout_rate: float = 1.0
    """For the mask kl_below: samples with KL(s) at or above this multiple of `max_kl` are dropped. 1
    is the published value, and drops a fifth to a third; 4 drops 1 to 4 %; inf drops nothing."""

    dropout_kl: float = 0.24
    """For the mask kl_within: samples with KL(s), in nats, at or above it are dropped. It is well above
    `max_kl`, which is the mean's limit: 4 times drops 1 to 4 %, and fewer as steps shrink; inf drops
    nothing."""

    mask_at: Literal["current", "trial"] = "current"
    """Where the mask is taken: at the policy as it is, or after a trial step on all samples, which is
    then undone (three stages; twice the work). A natural step can only mask at a trial step: where it
    begins, every ratio is 1."""

    mask_value: bool = False
    """Drop the same samples from the value loss and from the normalisation of advantages too, for as
    long as the policy moves. The published ablation; it takes samples from the critic."""

    deviation_threshold: float = 0.25
    """delta of early stopping: the policy stops once E|r - 1| reaches it. 0.1 is careful, 0.25 the
    published value. inf never stops."""

    deviation_threshold_schedule: Literal["constant", "linear"] = "constant"
    """linear: the threshold shrinks to 0 over training, so that the last policies hardly move."""

    deviation_statistic: Literal["mean", "median"] = "mean"
    """What of |r - 1| over the minibatch is compared; the median ignores a few far samples."""

    stop_when: Literal["after", "before"] = "after"
    """Measure after the step on the same minibatch (the ESPO authors' code), or before the step on the
    next: that saves a forward pass, and the samples are others than those that the last step was made on."""

    max_kl: float = 0.02
    """KL(old || new) in nats, summed over action dimensions: the trust region of a natural step, the
    limit of the stop mean_kl, the aim of the schedule adaptive_kl, the unit of the mask kl_below.
    0.01 is careful; libraries that average over the dimensions allow that many times as much."""

    max_kl_schedule: Literal["constant", "linear"] = "constant"
    """linear: the trust region of a natural step shrinks to 0 over training, so that the last policies
    hardly move; begin it with twice the constant value or more."""

    constraint_limit: float = 0.1
    """Largest mean of `constraint`. For ratio_variance about twice the KL allowed."""

    dual_learning_rate: float = 0.1
    """Step size of the dual variable, a step for each minibatch. Larger reacts sooner and swings more."""

    initial_penalty: float = 1.0
    """The dual variable at the start of training; it is carried over from update to update."""

    cg_iterations: int = 10
    """Conjugate gradient iterations of a natural step. More follow the natural gradient more exactly;
    the time of the step grows with them."""

    cg_damping: float = 0.1
    """Added to the diagonal of the Fisher information. Larger is steadier and nearer to plain ascent."""

    line_search_steps: int = 10
    """Trials of the line search before a natural step is given up for this batch."""

    line_search_shrink: float = 0.8
    """Factor from one trial to the next: 0.8 wastes little of the trust region, 0.5 is quicker."""

    fisher_fraction: float = 1.0
    """Fraction of the batch's states that the Fisher information is taken over, drawn at random. 0.2
    makes conjugate gradient five times as fast, at batches of several thousand."""

    def __post_init__(self) -> None:
        check_choices(self)
        for slot in SLOTS:
            if getattr(self, slot) is not None:
                check_name(slot, getattr(self, slot), names(slot))
        check_types(self, bool, "True or False", "mask_value", "recompute_advantages")
        check_counts(self, "minibatch_size", "epochs", "cg_iterations", "line_search_steps")
        check_range(self, "learning_rate", "adam_epsilon", above=0, high=1)
        check_range(self, "max_grad_norm", "dropout_threshold", "dropout_rate", "dropout_kl", above=0)
        check_range(self, "deviation_threshold", "max_kl", above=0)
        check_range(self, "constraint_limit", above=0, high=1e6)
        check_range(self, "dual_learning_rate", "cg_damping", low=0, high=1e6)
        check_range(self, "initial_penalty", low=0, high=LARGEST_PENALTY)
        check_range(self, "line_search_shrink", above=0, high=0.99)
        check_range(self, "fisher_fraction", above=0, high=1)
        check_range(self, "common_gradient", low=0, high=1)
        check_range(self, "clip_range", above=0, high=0.99)
        check_range(self, "value_coefficient", "entropy_coefficient", low=0, high=1e6)
        if self.critic_epochs is not None:
            check_counts(self, "critic_epochs")
        for name in ("critic_learning_rate", "log_std_learning_rate"):
            if getattr(self, name) is not None:
                check_range(self, name, above=0, high=1)

    def rates(self, learning_rate: float) -> tuple[float, float, float]:
        """Of log standard deviation, policy and critic, in proportion, while the policy's is that."""

        def in_proportion(rate: float | None) -> float:
            return learning_rate * (rate or self.learning_rate) / self.learning_rate

        log_std, critic = map(in_proportion, (self.log_std_learning_rate, self.critic_learning_rate))
        return log_std, learning_rate, critic


DEFAULTS: Mapping[str, Any] = {setting.name: setting.default for setting in fields(UpdateConfig)}
"""What each setting is where neither a recipe nor a user says otherwise."""


def settings_of(slot: str, name: str) -> list[str]:
    """The settings that the function of that name takes in ``slot``, beside its data."""
    if name not in SLOTS[slot]:  # no constraint
        return []
    arguments = list(inspect.signature(SLOTS[slot][name]).parameters)[len(DATA[slot]) :]
    # What is no setting has a default of its own: `register` sees to that.
    return [argument for argument in arguments if argument in DEFAULTS]
