"""Hyperparameters of the update, each with how to choose it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlkit_es.errors import check_choices, check_counts, check_range


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """What one update does with one batch."""

    minibatch_size: int = 64
    """Samples of a minibatch (M). Larger is faster on a GPU and takes fewer, less noisy steps; with
    early stopping it also makes each measured deviation more exact. Usually 64 to 1/4 of the batch."""

    epochs: int = 10
    """Passes over the batch for the policy, at most. More uses each sample more, and moves further."""

    critic_epochs: int | None = 10
    """Passes over the batch for the critic, whatever the policy does. None: the critic stops when the
    policy stops, as in the ESPO authors' code; it then sees few updates where the policy stops early."""

    learning_rate: float = 3e-4
    """Adam step size. The first thing to lower when returns collapse, and to raise when the deviation
    of the ratio stays far under its threshold."""

    critic_learning_rate: float | None = None
    """Adam step size of the critic; None: the policy's."""

    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear: to 0 at the end of training, better for a final score. constant: for open-ended runs."""

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

    surrogate: Literal["ratio", "clip", "spo"] | None = None
    """The objective; None: the recipe's."""

    mask: (
        Literal["keep_all", "ratio_within", "ratio_below", "ratio_above", "ratio_log_symmetric", "kl_below"]
        | None
    ) = None
    """Which samples may move the policy; None: the recipe's."""

    stop: Literal["never", "ratio_deviation", "mean_kl"] | None = None
    """When the policy has moved far enough on this batch; None: the recipe's."""

    clip_range: float = 0.2
    """eps of the clipped and of the spo surrogate: how far a ratio may profitably move. 0.1 to 0.3."""

    dropout_threshold: float = 0.5
    """delta of sample dropout: samples with |r - 1| at or above it are dropped. Smaller bounds the
    variance tighter and uses fewer samples. inf drops nothing."""

    dropout_rate: float = 1.0
    """For the mask kl_below: samples with KL(s) at or above this multiple of `max_kl` are dropped."""

    deviation_threshold: float = 0.25
    """delta of early stopping: the policy stops once E|r - 1| reaches it. 0.1 is careful, 0.25 the
    published value. inf never stops."""

    deviation_statistic: Literal["mean", "median"] = "mean"
    """What of |r - 1| over the minibatch is compared; the median ignores a few far samples."""

    stop_when: Literal["after", "before"] = "after"
    """Measure after the step on the same minibatch (the ESPO authors' code), or before it, which
    saves a forward pass and overshoots by one step less."""

    max_kl: float = 0.02
    """For the stop mean_kl and the mask kl_below, in nats, summed over action dimensions."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_counts(self, "minibatch_size", "epochs")
        check_range(self, "learning_rate", "adam_epsilon", above=0, high=1)
        check_range(self, "max_grad_norm", "dropout_threshold", "dropout_rate", above=0)
        check_range(self, "deviation_threshold", "max_kl", above=0)
        check_range(self, "clip_range", above=0, high=0.99)
        check_range(self, "value_coefficient", "entropy_coefficient", low=0, high=1e6)
        if self.critic_epochs is not None:
            check_counts(self, "critic_epochs")
        if self.critic_learning_rate is not None:
            check_range(self, "critic_learning_rate", above=0, high=1)
