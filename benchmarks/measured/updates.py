"""The update alone: PPO on one batch of HalfCheetah's shapes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from workers import Turn

from measured import Effort
from measured.plain_ppo import PlainActorCritic, PlainBatch, PlainPPO
from rlkit_es.learners.adam_learner import AdamLearner
from rlkit_es.learners.recipes import fill_slots, find_recipe
from rlkit_es.training.config import Config
from rlkit_es.training.policy import make_policy
from rlkit_es.types import ActionSpec, Batch, ObservationSpec, Spaces

_SAMPLES, _MINIBATCH, _EPOCHS = 2048, 64, 10
_OBSERVATION_SIZE = 17
_ACTION = ActionSpec(size=6, low=(-1.0,) * 6, high=(1.0,) * 6, shape=(6,))
# Thousands of updates on one batch must leave the policy near where it was.
_LEARNING_RATE = 1e-7


def plain(turn: Turn, effort: Effort) -> None:
    """Microseconds a minibatch of the update as libraries usually write it."""
    torch.manual_seed(0)
    model = PlainActorCritic(_OBSERVATION_SIZE, _ACTION.size)
    ppo = PlainPPO(model, epochs=_EPOCHS, minibatch_size=_MINIBATCH, learning_rate=_LEARNING_RATE)
    observation, action = torch.randn(_SAMPLES, _OBSERVATION_SIZE), torch.randn(_SAMPLES, _ACTION.size)
    with torch.no_grad():
        log_prob = model.log_prob(observation, action)
    batch = PlainBatch(observation, action, log_prob, torch.randn(_SAMPLES), torch.randn(_SAMPLES))
    _measure(turn, effort, lambda: ppo.update(batch))


def ours(turn: Turn, effort: Effort, *, compile_update: bool) -> None:
    """Microseconds a minibatch of `AdamLearner`, eager or compiled."""
    torch.manual_seed(0)
    passes = {"minibatch_size": _MINIBATCH, "epochs": _EPOCHS, "critic_epochs": _EPOCHS}
    config = Config.for_algorithm("ppo", **passes, recompute_advantages=False, hidden_sizes=(64, 64))
    policy = make_policy(config, Spaces(ObservationSpec((_OBSERVATION_SIZE,)), _ACTION), seed=0)
    step = AdamLearner(policy, fill_slots(find_recipe("ppo"), config), config, torch.Generator())
    if compile_update:
        step.compile()
    observation = torch.randn(_SAMPLES, _OBSERVATION_SIZE)
    with torch.no_grad():
        behaviour = policy.actor(observation)
    batch = Batch(
        observation=observation,
        action=policy.distribution.sample(behaviour, torch.randn(_SAMPLES, _ACTION.size)),
        behaviour=behaviour,
        advantage=torch.randn(_SAMPLES),
        value_target=torch.randn(_SAMPLES),
        valid=torch.ones(_SAMPLES, dtype=torch.bool),
    )
    _measure(turn, effort, lambda: step.update(batch, _LEARNING_RATE))


def _measure(turn: Turn, effort: Effort, update: Callable[[], object]) -> None:
    update()

    def microseconds_a_minibatch() -> tuple[float]:
        updates, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < effort.window_seconds:
            update()
            updates += 1
        return (1e6 * elapsed / (updates * _EPOCHS * _SAMPLES // _MINIBATCH),)

    turn.repeat(microseconds_a_minibatch)
