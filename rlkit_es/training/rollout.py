"""Collecting a rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from rlkit_es.envs.vector_env import Step, VectorEnv, require_finite
from rlkit_es.errors import diverged
from rlkit_es.learners.recording import Record, Recorded
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.types import Rollout


class RolloutCollector:
    """Steps the environments, which begin anew for it, with the current policy.

    Args:
        groups: environments; while the policy acts for one group, the others are simulated. Episodes
            go on from one rollout to the next.
        steps: T.
        generator: a CPU generator for the action noise.
        seeds: of the environments, N over all groups.
        device: where rollouts are wanted.
        record: how acting is recorded, once for each policy; None: it is not.
    """

    def __init__(
        self,
        groups: Sequence[VectorEnv],
        steps: int,
        *,
        generator: torch.Generator,
        seeds: Sequence[int],
        device: torch.device,
        record: Record | None = None,
    ) -> None:
        self._record = record
        self._recorded: tuple[ActorCritic, Recorded] | None = None  # of the policy that it was made for
        self.steps = steps
        self.generator = generator
        self.device = device
        self._observation = groups[0].observation
        self._sizes = [envs.num_envs for envs in groups]
        starts = accumulate(self._sizes, initial=0)
        self._groups = [
            _Group(envs, envs.reset(seeds[start : start + envs.num_envs]).to(device))
            for envs, start in zip(groups, starts, strict=False)
        ]

    @torch.no_grad()
    def collect(self, policy: ActorCritic) -> Rollout:
        """T steps of every environment.

        Raises:
            NonFiniteError: the policy's actions are NaN or infinite, or the environment returned such
                an observation or reward.
        """
        # One piece of memory, that every group writes its columns of: the largest part of a rollout.
        shape = (self.steps + 1, sum(self._sizes), *self._observation.shape)
        seen = torch.empty(shape, dtype=self._observation.dtype, device=self.device)
        for group, columns in zip(self._groups, torch.split(seen, self._sizes, dim=1), strict=True):
            group.start(columns)
        noise = policy.distribution.noise((self.steps, sum(self._sizes)), self.generator).to(self.device)
        group_noise = [part.contiguous().unbind(0) for part in torch.split(noise, self._sizes, dim=1)]
        act = self._acting(policy)
        for t in range(self.steps):
            for group, noises in zip(self._groups, group_noise, strict=True):
                group.wait()
                group.begin(*act(group.observation, noises[t]))
        parts = [group.finish() for group in self._groups]
        rollout = Rollout(
            observation=seen[:-1],
            next_observation=self._next_observations(seen),
            **{name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]},
        )
        for group in self._groups:
            group.clear()
        _require_finite(rollout)
        return rollout

    def _acting(self, policy: ActorCritic) -> Callable[..., tuple[Tensor, ...]]:
        """Observation and noise to action, what the environment receives, and outputs that are kept."""
        freeze = policy.frozen_evaluating if policy.shares_encoder else policy.frozen
        if self._record is None:
            return freeze()
        if self._recorded is None or self._recorded[0] is not policy:
            # What is frozen is part of the recording: computed anew from the parameters as they are then.
            self._recorded = policy, Recorded(lambda *given: freeze()(*given), self._record)
        return self._recorded[1]

    def _next_observations(self, seen: Tensor) -> Tensor:
        """(T, N, ...) a view of ``seen``, or a copy where episodes ended that reset in the same step."""
        following = seen[1:]
        finals = [group.final_observations() for group in self._groups]
        if any(finals):
            following = following.clone()
            for columns, steps in zip(torch.split(following, self._sizes, dim=1), finals, strict=True):
                for t, final in steps.items():
                    columns[t] = final
        return following


class _Group:
    """One vector environment and what has been seen of it in this rollout."""

    def __init__(self, envs: VectorEnv, observation: Tensor) -> None:
        self.envs = envs
        self.observation = observation  # (N, ...) to act on next
        self.clear()

    def start(self, seen: Tensor) -> None:
        """Begin a rollout whose observations go to ``seen`` (T + 1, N, ...)."""
        self._seen = seen

    def begin(self, action: Tensor, env_action: Tensor, *outputs: Tensor) -> None:
        """Begin a step; ``env_action`` is what the environments receive, the rest is stored.

        Args:
            action: unclipped.
            env_action: within the bounds.
            outputs: none, or the distribution's parameters and the values.
        """
        self._seen[len(self._actions)] = self.observation
        self._actions.append(action)
        self._outputs.append(outputs)
        self.envs.send(env_action.to(self.envs.device))

    def wait(self) -> None:
        """Take in the step that was begun, if one was."""
        if len(self._actions) > len(self._steps):
            step = self.envs.recv()
            self.observation = brought(step.observation, self.observation.device)
            # The observation goes to `_seen`, and is not kept twice.
            self._steps.append(step._replace(observation=self.observation.new_empty(0)))

    def finish(self) -> dict[str, Tensor]:
        """The rollout so far but for its observations, by field; the next one begins where it ends."""
        self.wait()
        self._seen[-1] = self.observation
        device = self.observation.device
        fields = {
            name: torch.stack([getattr(step, name) for step in self._steps]).to(device)
            for name in ("reward", "terminated", "truncated", "valid")
        }
        lost = [step.life_lost for step in self._steps if step.life_lost is not None]
        life_lost = torch.stack(lost).to(device) if lost else torch.zeros_like(fields["valid"])
        outputs = map(torch.stack, zip(*self._outputs, strict=True))
        kept = dict(zip(("behaviour", "value"), outputs, strict=False))
        return {"action": torch.stack(self._actions), **fields, "life_lost": life_lost, **kept}

    def final_observations(self) -> dict[int, Tensor]:
        """By row, of the steps that have a true next observation of their own."""
        return {
            t: step.final_observation
            for t, step in enumerate(self._steps)
            if step.final_observation is not None
        }

    def clear(self) -> None:
        """Forget the rollout."""
        self._actions: list[Tensor] = []
        self._outputs: list[tuple[Tensor, ...]] = []
        self._steps: list[Step] = []


def brought(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; from the CPU to a GPU, the host does not wait until it is there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _require_finite(rollout: Rollout) -> None:
    numbers = {"reward": rollout.reward}
    seen = torch.ones_like(rollout.valid)
    if rollout.observation.is_floating_point():
        seen = rollout.observation.isfinite().all(-1)
        numbers = {
            "observation": rollout.observation,
            "next_observation": rollout.next_observation,
            **numbers,
        }
    acted = rollout.action.isfinite().flatten(2).all(-1) if rollout.action.dim() > 2 else seen
    if (seen & ~acted).any():  # the policy's own doing: it was given numbers
        raise diverged("the policy's action")
    for name, values in numbers.items():
        require_finite(values, name.removeprefix("next_"), env_dimension=1)
