"""What carries out a recipe's updates, whatever its kind of step."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from rlkit_es.learners.estimates import Estimator
from rlkit_es.learners.requests import Requests, carried_out
from rlkit_es.types import Batch


class Learner(ABC):
    """Changes a policy and its critic, batch by batch."""

    def update(
        self, batch: Batch, learning_rate: float, remaining: float = 1.0, estimator: Estimator | None = None
    ) -> dict[str, float]:
        """Optimise on one batch, as `updating` says."""
        return carried_out(self.updating(batch, learning_rate, remaining, estimator))

    @abstractmethod
    def updating(
        self, batch: Batch, learning_rate: float, remaining: float, estimator: Estimator | None = None
    ) -> Requests[dict[str, float]]:
        """`update`, whose loops over minibatches are asked for.

        Args:
            batch: B samples of the current policy.
            learning_rate: as it is scheduled now; those of critic and log standard deviation keep their
                proportions to it.
            remaining: of training, from 1 at its start to 0: what scheduled limits go by.
            estimator: of ``batch``; needed where advantages are recomputed.

        Returns:
            metrics by name.

        Raises:
            NonFiniteError: a loss or the gradient is NaN or infinite.
            UserError: advantages are to be recomputed, and there is no estimator.
        """

    @abstractmethod
    def compile(self, *, required: bool = True) -> None:
        """Compile what is worth it; it happens at the first update.

        Without ``required`` the update stays eager, with a warning, where that is not possible.
        """

    @abstractmethod
    def state_tensors(self) -> dict[str, Tensor]:
        """All that the next update depends on beside the policy and the generator, by name.

        The tensors themselves: what is copied into them is what the learner goes on from.
        """
