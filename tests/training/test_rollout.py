from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from recordings import as_a_gpu_would
from toy_envs import Broken, Walk

from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv
from rlkit_es.envs.registry import make_vector_envs
from rlkit_es.envs.vector_env import Step, VectorEnv
from rlkit_es.errors import NonFiniteError
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.models.distributions import policy_stats
from rlkit_es.training.config import Config
from rlkit_es.training.policy import make_policy
from rlkit_es.training.rollout import RolloutCollector, _next_values, prepare_batch
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import Rollout, Spaces

CPU = torch.device("cpu")
SEEDS = [0, 1, 2, 3, 6]
GAMMA, GAE_LAMBDA = 0.9, 0.8


class Transition(NamedTuple):
    observation: tuple[float, ...]
    action: float
    reward: float
    next_observation: tuple[float, ...]
    terminated: bool
    truncated: bool


def walks(mode: AutoresetMode, num_envs: int = len(SEEDS), env: Callable = Walk) -> GymnasiumVectorEnv:
    return GymnasiumVectorEnv(SyncVectorEnv([env] * num_envs, autoreset_mode=mode))


def walk_policy(*, noisy: bool = False, scale_actions: bool = True) -> ActorCritic:
    """A policy for `Walk` that depends on the observation, with a normaliser that has seen something."""
    config = Config(algo="ppo", hidden_sizes=(16,), log_std_init=0.0, scale_actions=scale_actions)
    envs = walks(AutoresetMode.NEXT_STEP, 1)
    policy = make_policy(config, Spaces(envs.observation, envs.action), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
        if not noisy:
            policy.actor.log_std.fill_(-60.0)
    policy.normalizer.merge(torch.randn(50, 3, generator=generator) + 0.3, torch.ones(50, dtype=torch.bool))
    return policy


def held(rollout: Rollout) -> dict[str, torch.Tensor]:
    return {name: field for name, field in rollout._asdict().items() if field is not None}


def collector(
    groups: Sequence[VectorEnv], steps: int, seeds: Sequence[int] = SEEDS, **settings: Any
) -> RolloutCollector:
    generator = torch.Generator().manual_seed(2)
    return RolloutCollector(groups, steps, generator=generator, seeds=seeds, device=CPU, **settings)


def transitions(rollout: Rollout, env: int) -> list[Transition]:
    """The valid rows of one environment."""
    found = []
    for t in rollout.valid[:, env].nonzero().flatten().tolist():
        found.append(
            Transition(
                tuple(rollout.observation[t, env].tolist()),
                float(rollout.action[t, env, 0]),
                float(rollout.reward[t, env]),
                tuple(rollout.next_observation[t, env].tolist()),
                bool(rollout.terminated[t, env]),
                bool(rollout.truncated[t, env]),
            )
        )
    return found


def replay(seed: int, actions: Sequence[float]) -> list[Transition]:
    """What one plain `Walk` gives for these actions."""
    env, found = Walk(), []
    observation, _ = env.reset(seed=seed)
    for action in actions:
        clipped = torch.tensor([action]).clamp(-1, 1).numpy()
        following, reward, terminated, truncated, _ = env.step(clipped)
        found.append(
            Transition(
                tuple(observation.tolist()),
                action,
                float(torch.tensor(reward)),
                tuple(following.tolist()),
                terminated,
                truncated,
            )
        )
        observation = env.reset()[0] if terminated or truncated else following
    return found


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
    for _ in range(2):
        rollouts = held(plain.collect(policy)), held(recorded.collect(policy))
        assert rollouts[0].keys() == rollouts[1].keys()
        for name, field in rollouts[0].items():
            assert torch.equal(field, rollouts[1][name]), name
        with torch.no_grad():  # the next rollout is of another policy
            policy.actor.log_std.add_(0.5)


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


def brute_force_advantages(steps: list[Transition], policy: ActorCritic) -> list[float]:
    """A_t as the sum of the discounted deltas up to the end of t's own episode, in float64."""

    @torch.no_grad()
    def value(observation: tuple[float, ...]) -> float:
        return float(policy.critic(policy.normalize(torch.tensor(observation))))

    deltas = [
        t.reward + GAMMA * (0 if t.terminated else value(t.next_observation)) - value(t.observation)
        for t in steps
    ]
    advantages = []
    for start in range(len(steps)):
        total, weight = 0.0, 1.0
        for t in range(start, len(steps)):
            total += weight * deltas[t]
            if steps[t].terminated or steps[t].truncated:
                break
            weight *= GAMMA * GAE_LAMBDA
        advantages.append(total)
    return advantages


@pytest.mark.parametrize("mode", AutoresetMode)
def test_advantages_bootstrap_from_the_true_final_observation(mode: AutoresetMode) -> None:
    policy = walk_policy(noisy=True)
    rollout = collector([walks(mode)], 40).collect(policy)
    batch, _ = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    advantage = batch.advantage.view(40, -1)
    for env, seed in enumerate(SEEDS):
        actions = [t.action for t in transitions(rollout, env)]
        expected = brute_force_advantages(replay(seed, actions), policy)
        found = advantage[rollout.valid[:, env], env]
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_one_step_advantage_at_a_truncation_and_at_a_termination(mode: AutoresetMode) -> None:
    policy = walk_policy(noisy=True)
    rollout = collector([walks(mode)], 40).collect(policy)
    batch, _ = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=0.0)
    value = policy.critic(policy.normalize(rollout.observation))
    final_value = policy.critic(policy.normalize(rollout.next_observation))
    found = (batch.advantage.view(40, -1) + value - rollout.reward) / GAMMA
    torch.testing.assert_close(found[rollout.truncated], final_value[rollout.truncated], rtol=1e-4, atol=1e-4)
    cut = found[rollout.terminated]
    torch.testing.assert_close(cut, torch.zeros_like(cut), rtol=0, atol=1e-5)
    assert (final_value[rollout.truncated].abs() > 1e-2).any()


@pytest.mark.parametrize("mode", AutoresetMode)
def test_next_values_are_the_critics_of_the_next_observations(mode: AutoresetMode) -> None:
    policy = walk_policy(noisy=True)
    rollout = collector([walks(mode)], 40).collect(policy)
    value = policy.critic(policy.normalize(rollout.observation))
    expected = policy.critic(policy.normalize(rollout.next_observation))
    shared = torch.equal(rollout.next_observation[:-1], rollout.observation[1:])
    assert shared == (mode is AutoresetMode.NEXT_STEP)
    torch.testing.assert_close(_next_values(rollout, policy, value), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_collecting_and_preparing_leave_policy_and_rollout_as_they_are(mode: AutoresetMode) -> None:
    policy = walk_policy(noisy=True)
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    rollout = collector([walks(mode)], 20).collect(policy)
    copy = Rollout(**{name: field.clone() for name, field in held(rollout).items()})
    batch, _ = prepare_batch(rollout, policy, None, gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    assert all(torch.equal(x, before[name]) for name, x in policy.state_dict().items())
    assert all(torch.equal(x, y) for x, y in zip(held(rollout).values(), held(copy).values(), strict=True))
    assert batch.observation.shape == (100, 3)
    assert torch.equal(batch.valid, rollout.valid.flatten())
    assert (batch.advantage[~batch.valid] == 0).all()


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


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Humanoid-v4", "CartPole-v1"])
@pytest.mark.parametrize("scale_actions", [True, False])
def test_the_ratio_is_one_on_the_first_minibatch(env_id: str, scale_actions: bool) -> None:
    config = Config.for_algorithm(
        "ppo", env=env_id, num_envs=4, rollout_steps=64, scale_actions=scale_actions, compile="off", epochs=2
    )
    trainer = Trainer(config)
    trainer.train(config.batch_size)
    policy = trainer.policy
    rollout = trainer.begin_segment().collect(policy)
    batch, _ = prepare_batch(rollout, policy, trainer.reward_scaler, gamma=0.99, gae_lambda=0.95)
    some = torch.randperm(config.batch_size, generator=torch.Generator().manual_seed(0))[:37]
    new = policy.actor(batch.observation[some])
    stats = policy_stats(policy.distribution, new, batch.behaviour[some], batch.action[some])
    assert (stats.ratio - 1).abs().max() <= 1e-6
    assert stats.kl.abs().max() <= 1e-6
    acted = policy.actor(policy.normalize(rollout.observation.flatten(0, 1)))
    stats = policy_stats(policy.distribution, acted, batch.behaviour, batch.action)
    assert (stats.ratio - 1).abs().max() <= 1e-6
    trainer.close()
