from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from rlkit_es.envs.envpool_backend import EnvPoolVectorEnv
from rlkit_es.envs.registry import AtariSettings, choose_backend, make_vector_envs
from rlkit_es.envs.vector_env import Step
from rlkit_es.errors import UserError

pytest.importorskip("envpool")

SEEDS = [3, 1, 4]


def make(env_id: str, num_envs: int = 3, threads: int = 1, **atari: object) -> EnvPoolVectorEnv:
    settings = AtariSettings(**atari) if atari else None
    (envs,) = make_vector_envs(env_id, num_envs, backend="envpool", threads=threads, atari=settings)
    assert isinstance(envs, EnvPoolVectorEnv)
    return envs


def random_actions(size: int, steps: int) -> Tensor:
    return torch.randint(size, (steps, 3), generator=torch.Generator().manual_seed(0))


def play(
    envs: EnvPoolVectorEnv, actions: Tensor, seeds: list[int] = SEEDS, *, close: bool = True
) -> tuple[Tensor, list[Step]]:
    first, steps = envs.reset(seeds), []
    for action in actions:
        envs.send(action)
        steps.append(envs.recv())
    if close:
        envs.close()
    return first, steps


def assert_same(left: tuple[Tensor, list[Step]], right: tuple[Tensor, list[Step]]) -> None:
    assert torch.equal(left[0], right[0])
    for x, y in zip(left[1], right[1], strict=True):
        for name in Step._fields:
            a, b = getattr(x, name), getattr(y, name)
            assert (a is None and b is None) or torch.equal(a, b), name


@pytest.fixture(scope="module")
def actions() -> Tensor:
    return random_actions(4, 350)


@pytest.fixture(scope="module")
def breakout(actions: Tensor) -> tuple[Tensor, list[Step]]:
    return play(make("ALE/Breakout-v5"), actions)


@pytest.fixture(scope="module")
def breakout_by_lives(actions: Tensor) -> tuple[Tensor, list[Step]]:
    return play(make("ALE/Breakout-v5", episodic_life=True), actions)


def test_shapes_dtypes_and_the_row_after_an_end(breakout: tuple[Tensor, list[Step]]) -> None:
    first, steps = breakout
    assert first.shape == (3, 4, 84, 84)
    assert first.dtype == torch.uint8
    ended = torch.zeros(3, dtype=torch.bool)
    for step in steps:
        assert step.observation.shape == first.shape
        assert step.observation.dtype == torch.uint8
        assert step.reward.shape == (3,)
        assert step.reward.dtype == torch.float32
        assert step.final_observation is None
        assert step.life_lost is None
        assert torch.equal(step.valid, ~ended)
        ended = step.terminated | step.truncated
        assert not (ended & ~step.valid).any()
        assert not step.reward[~step.valid].any()
    assert sum(int((~step.valid).sum()) for step in steps) >= 3


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "ALE/Freeway-v5", "ALE/Alien-v5"])
def test_the_spaces_are_those_of_ale_py(env_id: str) -> None:
    pytest.importorskip("ale_py")
    (ale,) = make_vector_envs(env_id, 1, backend="ale")
    pool = make(env_id, 1)
    assert pool.observation == ale.observation
    assert pool.action == ale.action
    assert pool.observation.pixels


def test_the_same_seeds_and_actions_give_the_same_steps(
    breakout: tuple[Tensor, list[Step]], actions: Tensor
) -> None:
    envs = make("ALE/Breakout-v5", threads=2)
    assert_same(play(envs, actions[:40], close=False), (breakout[0], breakout[1][:40]))
    assert_same(play(envs, actions), breakout)


def test_every_row_is_that_of_its_own_seed(breakout: tuple[Tensor, list[Step]], actions: Tensor) -> None:
    for i, seed in enumerate(SEEDS):
        first, alone = play(make("ALE/Breakout-v5", 1), actions[:200, i : i + 1], [seed])
        assert torch.equal(first[0], breakout[0][i])
        for one, step in zip(alone, breakout[1], strict=False):
            assert torch.equal(one.observation[0], step.observation[i])
            assert one.reward[0] == step.reward[i]
            assert (one.terminated[0], one.valid[0]) == (step.terminated[i], step.valid[i])


def test_other_seeds_give_other_games() -> None:
    # The same actions for all: what differs is due to the seeds, of which some come to the same no-ops.
    envs = make("ALE/Pong-v5", 8)
    actions = torch.randint(6, (60, 1), generator=torch.Generator().manual_seed(0)).expand(-1, 8)
    _, steps = play(envs, actions.contiguous(), list(range(8)))
    seen = torch.stack([step.observation for step in steps], dim=1)
    assert len(seen.flatten(1).unique(dim=0)) >= 4


def test_no_later_step_overwrites_what_was_returned() -> None:
    envs = make("ALE/Breakout-v5", episodic_life=True)
    first = envs.reset(SEEDS)
    kept, copies = [first], [first.clone()]
    for action in random_actions(4, 60):
        envs.send(action)
        step = [x for x in envs.recv() if x is not None]
        kept += step
        copies += [x.clone() for x in step]
    envs.close()
    assert all(torch.equal(x, copy) for x, copy in zip(kept, copies, strict=True))


def test_the_action_after_an_end_is_ignored(breakout: tuple[Tensor, list[Step]], actions: Tensor) -> None:
    valid = torch.stack([step.valid for step in breakout[1]])
    assert int((~valid).sum()) >= 3
    assert_same(play(make("ALE/Breakout-v5"), torch.where(valid, actions, (actions + 1) % 4)), breakout)


@pytest.mark.parametrize(("env_id", "points"), [("ALE/Alien-v5", 10), ("ALE/Qbert-v5", 25)])
@pytest.mark.parametrize("episodic_life", [False, True])
def test_rewards_are_the_games_own_points(env_id: str, points: float, episodic_life: bool) -> None:
    envs = make(env_id, episodic_life=episodic_life)
    _, steps = play(envs, random_actions(envs.action.size, 100))
    rewards = torch.stack([step.reward for step in steps])
    assert rewards.max() >= points
    assert torch.equal(rewards % 5, torch.zeros_like(rewards))


def test_a_lost_life_ends_what_is_learned_from_and_not_the_game(
    breakout: tuple[Tensor, list[Step]], breakout_by_lives: tuple[Tensor, list[Step]]
) -> None:
    lives = torch.full((3,), 5)
    assert torch.equal(breakout[0], breakout_by_lives[0])
    lost = games = 0
    for whole, step in zip(breakout[1], breakout_by_lives[1], strict=True):
        assert step.life_lost is not None
        # The same games, of which nothing but the flags of a lost life differs.
        for name in ("observation", "reward", "truncated", "valid"):
            assert torch.equal(getattr(step, name), getattr(whole, name)), name
        assert torch.equal(step.terminated, whole.terminated | step.life_lost)
        assert not (step.life_lost & (whole.terminated | whole.truncated | ~step.valid)).any()
        lives -= step.life_lost.int()
        assert (lives[whole.terminated] == 1).all()
        lives[whole.terminated] = 5
        lost += int(step.life_lost.sum())
        games += int(whole.terminated.sum())
    assert games >= 3
    assert lost >= 4 * games


def test_actions_are_not_sticky_unless_asked_to_be(
    breakout: tuple[Tensor, list[Step]], actions: Tensor
) -> None:
    plain = play(make("ALE/Breakout-v5", sticky_actions=0.0), actions[:100])
    assert_same(plain, (breakout[0], breakout[1][:100]))
    sticky = play(make("ALE/Breakout-v5", sticky_actions=0.25), actions[:100])
    assert_same(play(make("ALE/Breakout-v5", sticky_actions=0.25), actions[:100]), sticky)
    seen, usual = (torch.stack([step.observation for step in run[1]]) for run in (sticky, plain))
    assert all(not torch.equal(seen[:, i], usual[:, i]) for i in range(3))


@pytest.mark.parametrize("episodic_life", [False, True])
def test_a_time_limit_truncates_only(episodic_life: bool) -> None:
    envs = EnvPoolVectorEnv(
        "Breakout-v5", 3, 1, settings={"max_episode_steps": 12}, episodic_life=episodic_life
    )
    _, steps = play(envs, random_actions(4, 40))
    assert [t for t, step in enumerate(steps) if step.truncated.any()] == [11, 24, 37]
    for step in steps:
        assert step.truncated.all() or not step.truncated.any()
        assert not (step.terminated & (step.truncated | ~step.valid)).any()


@pytest.mark.slow
def test_a_game_is_truncated_after_27_000_steps() -> None:
    envs = make("ALE/Breakout-v5", 1)
    envs.reset([0])
    ends = []
    for t in range(1, 27_010):  # the ball that is never served is never lost
        envs.send(torch.tensor([0]))
        step = envs.recv()
        if step.truncated[0] or step.terminated[0]:
            ends.append((t, bool(step.truncated[0]), bool(step.terminated[0])))
    envs.close()
    assert ends == [(27_000, True, False)]


def test_envpool_serves_atari_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert choose_backend("ALE/Pong-v5", "envpool") == ("envpool", "as asked")


def test_a_game_that_envpool_lacks_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"EnvPool does not have 'Pnog-v5'.*Pong-v5") as refused:
        choose_backend("ALE/Pnog-v5", "envpool")
    assert "\n" not in str(refused.value)


def test_a_version_that_no_game_has_is_refused() -> None:
    for backend in ("ale", "envpool"):
        with pytest.raises(UserError, match="Pong-v5") as refused:
            choose_backend("ALE/Pong-v99", backend)
        assert "\n" not in str(refused.value)
