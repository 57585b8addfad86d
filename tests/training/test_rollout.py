from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from recordings import as_a_gpu_would
from toy_envs import Broken, Walk
from walks import (
    SEEDS,
    collector,
    held,
    replay,
    transitions,
    walk_policy,
    walks,
)

from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv
from rlkit_es.envs.registry import make_vector_envs
from rlkit_es.envs.vector_env import Step, VectorEnv
from rlkit_es.errors import NonFiniteError
from rlkit_es.training.config import Config
from rlkit_es.training.policy import make_policy
from rlkit_es.types import Rollout, Spaces


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_transitions_are_those_of_plain_environments(mode: AutoresetMode, noisy: bool) -> None:
    rollout = collector([walks(mode)], 40).collect(walk_policy(noisy=noisy))
    for env, seed in enumerate(SEEDS):
        seen = transitions(rollout, env)
        assert seen == replay(seed, [t.action for t in seen])
        assert sum(t.terminated for t in seen) >= 2
        assert sum(t.truncated for t in seen) >= 2


def test_every_autoreset_mode_gives_the_same_transitions() -> None:
    policy = walk_policy()
    rollouts = {mode: collector([walks(mode)], 40).collect(policy) for mode in AutoresetMode}
    assert not rollouts[AutoresetMode.NEXT_STEP].valid.all()
    assert rollouts[AutoresetMode.SAME_STEP].valid.all()
    assert rollouts[AutoresetMode.DISABLED].valid.all()
    for env in range(len(SEEDS)):
        expected = transitions(rollouts[AutoresetMode.NEXT_STEP], env)
        assert len(expected) >= 25
        for rollout in rollouts.values():
            assert transitions(rollout, env)[: len(expected)] == expected


@pytest.mark.parametrize("mode", AutoresetMode)
def test_episodes_go_on_from_one_rollout_to_the_next(mode: AutoresetMode) -> None:
    policy = walk_policy()
    whole = collector([walks(mode)], 42).collect(policy)
    short = collector([walks(mode)], 7)
    parts = [short.collect(policy) for _ in range(6)]
    for name, field in held(whole).items():
        torch.testing.assert_close(torch.cat([getattr(part, name) for part in parts]), field, msg=name)


def test_each_row_begins_where_the_one_before_ended_under_next_step() -> None:
    collect = collector([walks(AutoresetMode.NEXT_STEP)], 9)
    rollouts = [collect.collect(walk_policy(noisy=True)) for _ in range(4)]
    rollout = Rollout(
        **{name: torch.cat([held(part)[name] for part in rollouts]) for name in held(rollouts[0])}
    )
    assert torch.equal(rollout.next_observation[:-1], rollout.observation[1:])
    assert torch.equal(rollout.valid[1:], ~rollout.done[:-1])
    assert rollout.valid[0].all()


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("sizes", [(5,), (3, 2), (2, 2, 1)])
def test_groups_do_not_change_an_environments_stream(sizes: tuple[int, ...], mode: AutoresetMode) -> None:
    policy = walk_policy()
    expected = collector([walks(mode)], 23).collect(policy)
    rollout = collector([walks(mode, size) for size in sizes], 23).collect(policy)
    for name, field in held(expected).items():
        torch.testing.assert_close(getattr(rollout, name), field, msg=name)


def test_acting_that_was_recorded_collects_the_same() -> None:
    policy = walk_policy(noisy=True)
    groups = lambda: [walks(AutoresetMode.NEXT_STEP, size) for size in (3, 2)]  # noqa: E731
    plain, recorded = collector(groups(), 7), collector(groups(), 7, record=as_a_gpu_would)
    for _ in range(3):
        rollouts = held(plain.collect(policy)), held(recorded.collect(policy))
        assert rollouts[0].keys() == rollouts[1].keys()
        for name, field in rollouts[0].items():
            assert torch.equal(field, rollouts[1][name]), name
        with torch.no_grad():  # the policy moves on
            policy.actor.log_std.add_(0.5)
        assert policy.normalizer is not None
        policy.normalizer.merge(torch.randn(50, 3), torch.ones(50, dtype=torch.bool))


@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "CartPole-v1"])
def test_one_and_two_groups_of_envpool(env_id: str) -> None:
    pytest.importorskip("envpool")
    rollouts = []
    for groups in (1, 2):
        made = make_vector_envs(env_id, 5, backend="envpool", groups=groups)
        assert len(made) == groups
        policy = make_policy(Config(algo="ppo"), Spaces(made[0].observation, made[0].action), seed=0)
        rollouts.append(collector(made, 20).collect(policy))
    one, two = rollouts
    for name, field in held(one).items():
        assert getattr(two, name).shape == field.shape
        assert field.shape[:2] == (20, 5)
        # The networks see 3 and 2 rows rather than 5, which rounds differently.
        torch.testing.assert_close(getattr(two, name), field, msg=name, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("what", "at"), [("reward", 3), ("observation", 3), ("observation", 6)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(mode: AutoresetMode, what: str, at: int, value: float) -> None:
    def group(*broken: bool) -> GymnasiumVectorEnv:
        makers = [(lambda: Broken(what, at, value)) if bad else Walk for bad in broken]
        return GymnasiumVectorEnv(SyncVectorEnv(makers, autoreset_mode=mode))

    collect = collector([group(False, False, False), group(True, False)], 8)
    with pytest.raises(NonFiniteError, match=rf"environment 3\b.* {what}\b"):
        collect.collect(walk_policy())


@pytest.mark.parametrize("steps", [2, 6])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_reset_that_is_not_finite_is_named(mode: AutoresetMode, steps: int) -> None:
    makers = [Walk, lambda: Broken("observation", at=0)]
    envs = GymnasiumVectorEnv(SyncVectorEnv(makers, autoreset_mode=mode))
    with pytest.raises(NonFiniteError, match=r"environment 1\b.* observation\b"):
        collector([envs], steps, SEEDS[:2]).collect(walk_policy())


class Recording:
    """Passes everything on, and keeps what the environments were sent."""

    def __init__(self, envs: VectorEnv) -> None:
        self.envs, self.sent = envs, []
        self.num_envs, self.device = envs.num_envs, envs.device
        self.observation, self.action = envs.observation, envs.action

    def reset(self, seeds: Sequence[int]) -> torch.Tensor:
        return self.envs.reset(seeds)

    def send(self, action: torch.Tensor) -> None:
        self.sent.append(action.clone())
        self.envs.send(action)

    def recv(self) -> Step:
        return self.envs.recv()

    def close(self) -> None:
        self.envs.close()


@pytest.mark.parametrize("scale_actions", [True, False])
@pytest.mark.parametrize(("env_id", "bound"), [("Pendulum-v1", 2.0), ("Humanoid-v4", 0.4)])
def test_actions_are_stored_unclipped_and_sent_within_bounds(
    env_id: str, bound: float, scale_actions: bool
) -> None:
    (envs,) = make_vector_envs(env_id, 3, backend="auto")
    recording = Recording(envs)
    config = Config(algo="ppo", log_std_init=1.0, scale_actions=scale_actions)
    policy = make_policy(config, Spaces(envs.observation, envs.action), seed=0)
    rollout = collector([recording], 30, SEEDS[:3]).collect(policy)
    sent = torch.stack(recording.sent)
    assert float(sent.abs().max()) == pytest.approx(bound)
    inner = rollout.action.abs() <= (1 if scale_actions else bound)
    expected = rollout.action * (bound if scale_actions else 1)
    assert 0.01 < inner.float().mean() < 0.9
    torch.testing.assert_close(sent[inner], expected[inner])
    assert (sent[~inner].abs() - bound).abs().max() < 1e-6
