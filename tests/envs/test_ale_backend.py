from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from rlkit_es.envs.ale_backend import AleVectorEnv, make_game
from rlkit_es.envs.registry import AtariSettings, choose_backend, make_vector_envs
from rlkit_es.envs.vector_env import Lives, Step
from rlkit_es.errors import UserError
from rlkit_es.training.episodes import Episode, EpisodeTracker
from rlkit_es.types import Rollout

vector_env = pytest.importorskip("ale_py.vector_env")

BREAKOUT = "ALE/Breakout-v5"
SEEDS = [3, 1, 4]


def make(env_id: str = BREAKOUT, num_envs: int = 3, threads: int = 1, **atari: object) -> AleVectorEnv:
    settings = AtariSettings(**atari)
    (envs,) = make_vector_envs(env_id, num_envs, backend="ale", threads=threads, atari=settings)
    assert isinstance(envs, AleVectorEnv)
    return envs


def random_actions(size: int, num_envs: int, steps: int) -> Tensor:
    """(T, N), the same for an environment however many are beside it."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(size, (steps, 8), generator=generator)[:, :num_envs].contiguous()


def play(envs: AleVectorEnv, actions: Tensor, seeds: list[int] = SEEDS) -> tuple[Tensor, list[Step]]:
    first, steps = envs.reset(seeds), []
    for action in actions:
        envs.send(action)
        steps.append(envs.recv())
    return first, steps


def assert_same(left: tuple[Tensor, list[Step]], right: tuple[Tensor, list[Step]]) -> None:
    assert torch.equal(left[0], right[0])
    for x, y in zip(left[1], right[1], strict=True):
        for name in Step._fields:
            a, b = getattr(x, name), getattr(y, name)
            assert (a is None and b is None) or torch.equal(a, b), name


def episodes(steps: list[Step]) -> list[Episode]:
    """As a run counts them, from two rollouts."""
    tracker, finished = EpisodeTracker(len(steps[0].reward)), []
    for part in (steps[: len(steps) // 3], steps[len(steps) // 3 :]):
        flags = {
            name: torch.stack([getattr(step, name) for step in part])
            for name in ("reward", "terminated", "truncated", "valid")
        }
        nothing = torch.zeros_like(flags["valid"])
        lost = [nothing[0] if step.life_lost is None else step.life_lost for step in part]
        rollout = Rollout(nothing, nothing, nothing, life_lost=torch.stack(lost), **flags)
        finished += tracker.track(rollout)
    return finished


@pytest.fixture(scope="module")
def actions() -> Tensor:
    return random_actions(4, 3, 350)


@pytest.fixture(scope="module")
def breakout(actions: Tensor) -> tuple[Tensor, list[Step]]:
    return play(make(), actions)


@pytest.fixture(scope="module")
def breakout_by_lives(actions: Tensor) -> tuple[Tensor, list[Step]]:
    return play(make(episodic_life=True), actions)


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
        for flag in (step.terminated, step.truncated, step.valid):
            assert flag.shape == (3,)
            assert flag.dtype == torch.bool
        assert step.final_observation is None
        assert torch.equal(step.valid, ~ended)
        ended = step.terminated | step.truncated
        assert not (ended & ~step.valid).any()
        assert not step.reward[~step.valid].any()
    assert sum(int((~step.valid).sum()) for step in steps) >= 3


def test_what_an_observation_is_said_to_be_is_what_it_is() -> None:
    envs = make("ALE/Pong-v5", 2)
    assert envs.observation.shape == (4, 84, 84)
    assert envs.observation.pixels
    assert (envs.action.size, envs.action.start, envs.action.discrete) == (6, 0, True)
    assert envs.reset([1, 2]).shape == (2, *envs.observation.shape)


def test_the_last_three_frames_of_an_observation_are_the_first_three_of_the_next(
    breakout: tuple[Tensor, list[Step]],
) -> None:
    for before, after in pairwise(breakout[1]):
        going_on = after.valid
        assert torch.equal(before.observation[going_on, 1:], after.observation[going_on, :-1])


def test_the_same_seeds_and_actions_give_the_same_steps(
    breakout: tuple[Tensor, list[Step]], actions: Tensor
) -> None:
    envs = make(threads=2)
    assert_same(play(envs, actions[:40]), (breakout[0], breakout[1][:40]))
    assert_same(play(envs, actions), breakout)  # anew, from the midst of a game


def test_every_row_is_that_of_its_own_seed(breakout: tuple[Tensor, list[Step]], actions: Tensor) -> None:
    for i, seed in enumerate(SEEDS):
        first, alone = play(make(num_envs=1), actions[:250, i : i + 1], [seed])
        assert torch.equal(first[0], breakout[0][i])
        for one, step in zip(alone, breakout[1], strict=False):
            assert torch.equal(one.observation[0], step.observation[i])
            assert one.reward[0] == step.reward[i]
            assert (one.terminated[0], one.valid[0]) == (step.terminated[i], step.valid[i])


def test_other_seeds_give_other_games() -> None:
    # The same actions for all three: what differs is due to the seeds.
    actions = random_actions(4, 1, 100).expand(-1, 3).contiguous()
    _, steps = play(make(), actions)
    seen = torch.stack([step.observation for step in steps])
    assert not torch.equal(seen[:, 0], seen[:, 1])
    assert not torch.equal(seen[:, 0], seen[:, 2])
    assert not torch.equal(seen[:, 1], seen[:, 2])


def test_no_later_step_overwrites_what_was_returned() -> None:
    envs = make(episodic_life=True)
    first = envs.reset(SEEDS)
    kept, copies = [first], [first.clone()]
    for action in random_actions(4, 3, 60):
        envs.send(action)
        step = [x for x in envs.recv() if x is not None]
        kept += step
        copies += [x.clone() for x in step]
    envs.reset([7, 8, 9])
    envs.close()
    assert all(torch.equal(x, copy) for x, copy in zip(kept, copies, strict=True))


def test_the_action_after_an_end_is_ignored(breakout: tuple[Tensor, list[Step]], actions: Tensor) -> None:
    other, ended = actions.clone(), 0
    for t, step in enumerate(breakout[1]):
        other[t] = torch.where(step.valid, actions[t], (actions[t] + 1) % 4)
        ended += int((~step.valid).sum())
    assert ended >= 3
    assert_same(play(make(), other), breakout)


@pytest.mark.parametrize(("env_id", "points"), [("ALE/Alien-v5", 10), ("ALE/Qbert-v5", 25)])
@pytest.mark.parametrize("episodic_life", [False, True])
def test_rewards_are_the_games_own_points(env_id: str, points: float, episodic_life: bool) -> None:
    envs = make(env_id, episodic_life=episodic_life)
    _, steps = play(envs, random_actions(envs.action.size, 3, 100))
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
        assert step.life_lost.dtype == torch.bool
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


def test_without_episodic_life_no_life_is_said_to_be_lost(breakout: tuple[Tensor, list[Step]]) -> None:
    assert all(step.life_lost is None for step in breakout[1])


def test_neither_an_end_nor_the_reset_after_it_loses_a_life() -> None:
    nobody, everybody = np.array([False, False]), np.array([True, True])
    lives = Lives(np.array([3, 3]))
    assert lives.lost(np.array([4, 2]), nobody).tolist() == [False, True]  # one was won
    assert lives.lost(np.array([4, 1]), everybody).tolist() == [False, False]
    assert lives.lost(np.array([3, 3]), everybody).tolist() == [False, False]  # the rows that reset
    assert lives.lost(np.array([2, 3]), nobody).tolist() == [True, False]


def test_sticky_actions_change_what_happens(breakout: tuple[Tensor, list[Step]], actions: Tensor) -> None:
    sticky = play(make(sticky_actions=0.25), actions[:100])
    assert_same(play(make(sticky_actions=0.25, episodic_life=False), actions[:100]), sticky)
    seen = torch.stack([step.observation for step in sticky[1]])
    usual = torch.stack([step.observation for step in breakout[1][:100]])
    assert all(not torch.equal(seen[:, i], usual[:, i]) for i in range(3))


@pytest.mark.parametrize("env_id", [BREAKOUT, "ALE/Qbert-v5"])
def test_the_return_of_an_episode_is_the_score_of_a_whole_game(env_id: str) -> None:
    envs = make(env_id, episodic_life=True)
    actions = random_actions(envs.action.size, 3, 400)
    game = env_id.removeprefix("ALE/").removesuffix("-v5").lower()
    plain = vector_env.AtariVectorEnv(game, 3, num_threads=1, reward_clipping=False)
    plain.reset(seed=np.array(SEEDS))
    expected, score, length, over = [], np.zeros(3), np.zeros(3, int), np.zeros(3, bool)
    for action in actions:
        _, reward, terminated, truncated, _ = plain.step(action.numpy())
        score += reward
        length += ~over
        over = terminated | truncated
        for i in np.flatnonzero(over):
            expected.append((i, score[i], length[i]))
            score[i] = length[i] = 0
    assert len(expected) >= 3
    assert any(points > 1 for _, points, _ in expected)
    assert episodes(play(envs, actions)[1]) == expected


def test_returns_are_the_same_with_and_without_episodic_life(
    breakout: tuple[Tensor, list[Step]], breakout_by_lives: tuple[Tensor, list[Step]]
) -> None:
    assert episodes(breakout[1]) == episodes(breakout_by_lives[1]) != []


def test_groups_play_what_each_would_play_alone() -> None:
    groups = make_vector_envs("ALE/Pong-v5", 3, backend="ale", threads=2, groups=2)
    assert [envs.num_envs for envs in groups] == [2, 1]
    actions = random_actions(6, 2, 20)
    alone = [play(make("ALE/Pong-v5", n), actions[:, :n].contiguous(), SEEDS[:n]) for n in (2, 1)]
    first = [envs.reset(SEEDS[: envs.num_envs]) for envs in groups]
    steps: list[list[Step]] = [[], []]
    for action in actions:
        for envs in groups:
            envs.send(action[: envs.num_envs].contiguous())
        for envs, seen in zip(groups, steps, strict=True):
            seen.append(envs.recv())
    for i in range(2):
        assert_same((first[i], steps[i]), alone[i])


@pytest.mark.slow
def test_a_game_is_truncated_at_108_000_frames() -> None:
    envs = make(num_envs=1)
    envs.reset([0])
    ends = []
    for t in range(1, 27_010):  # the ball that is never served is never lost
        envs.send(torch.tensor([0]))
        step = envs.recv()
        if step.truncated[0] or step.terminated[0]:
            ends.append((t, bool(step.truncated[0]), bool(step.terminated[0])))
    ((t, truncated, terminated),) = ends
    assert 26_990 <= t <= 27_000
    assert truncated
    assert not terminated


@pytest.mark.parametrize("backend", ["auto", "ale"])
def test_ale_is_what_atari_gets(backend: str) -> None:
    assert choose_backend("ALE/Pong-v5", backend)[0] == "ale"
    assert choose_backend("ALE/Pong-v5", backend, num_envs=1)[0] == "ale"


@pytest.mark.parametrize("backend", ["auto", "ale"])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [("ALE/Pnog-v5", "ALE/Pong-v5"), ("ALE/pong-v5", "ALE/Pong-v5"), ("ALE/Breakout-v4", "ALE/Breakout-v5")],
)
def test_an_unknown_game_names_the_closest(wrong: str, right: str, backend: str) -> None:
    with pytest.raises(UserError, match="unknown environment") as refused:
        choose_backend(wrong, backend)
    assert repr(wrong) in str(refused.value)
    assert right in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture
def without_ale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)


@pytest.mark.parametrize("backend", ["auto", "ale"])
def test_without_ale_py_it_says_what_to_install(without_ale: None, backend: str) -> None:
    for refuse in (choose_backend, lambda *args, **_: make_vector_envs(args[0], 1, backend=backend)):
        with pytest.raises(UserError, match=r"pip install 'rlkit_es\[atari\]'") as refused:
            refuse("ALE/Pong-v5", backend)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("backend", ["gymnasium", "gymnasium-async"])
def test_gymnasium_does_not_serve_atari(backend: str) -> None:
    with pytest.raises(UserError, match=f"not by {backend}"):
        choose_backend("ALE/Pong-v5", backend)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "dm_control/cheetah-run-v0", "toy_envs:ToyWalk-v0"])
def test_ale_serves_nothing_else(env_id: str) -> None:
    with pytest.raises(UserError, match="backend ale is for Atari") as refused:
        choose_backend(env_id, "ale")
    assert repr(env_id) in str(refused.value)


@pytest.mark.parametrize(("game", "env_id"), [("breakout", "ALE/Breakout-v5"), ("pong", "ALE/Pong-v5")])
def test_a_game_that_can_be_drawn_shows_the_same_pictures(game: str, env_id: str) -> None:
    drawn = make_game(env_id, 0.0, "rgb_array")
    drawn.get_wrapper_attr("env").noop_max = 0  # each draws its own number of them
    plain = vector_env.AtariVectorEnv(game, 1, reward_clipping=False, noop_max=0)
    (first,), _ = plain.reset(seed=np.array([3]))
    observation, _ = drawn.reset(seed=3)
    assert np.array_equal(observation, first)
    rng = np.random.default_rng(0)
    for action in rng.integers(plain.single_action_space.n, size=150):
        (expected,), (reward,), (over,), _, _ = plain.step(np.array([action]))
        observation, drawn_reward, drawn_over, _, _ = drawn.step(action)
        assert np.array_equal(observation, expected)
        assert (drawn_reward, drawn_over) == (reward, over)
        if over:
            break
    assert drawn.render().shape == (210, 160, 3)
    assert drawn.metadata["render_fps"] == 15
    drawn.close()
