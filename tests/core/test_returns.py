import pytest
import torch

from rlkit_es.core.returns import running_returns


def make_rows(seed: int, steps: int = 20, envs: int = 4):
    g = torch.Generator().manual_seed(seed)
    reward = torch.randn(steps, envs, generator=g)
    done = torch.rand(steps, envs, generator=g) < 0.2
    valid = torch.rand(steps, envs, generator=g) < 0.8
    valid[1:] &= ~done[:-1]
    return reward, done & valid, valid, torch.randn(envs, generator=g)


def loop(reward, done, valid, start, gamma):
    steps, envs = reward.shape
    returns, last = torch.zeros_like(reward), torch.zeros_like(start)
    for n in range(envs):
        running = start[n].item()
        for t in range(steps):
            if valid[t, n]:
                running = gamma * running + reward[t, n].item()
            returns[t, n] = running
            if done[t, n]:
                running = 0.0
        last[n] = running
    return returns, last


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.99, 1.0])
def test_against_a_loop(seed: int, gamma: float) -> None:
    rows = make_rows(seed)
    torch.testing.assert_close(running_returns(*rows, gamma=gamma), loop(*rows, gamma), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_two_rollouts_give_what_one_gives(cut: int) -> None:
    reward, done, valid, start = make_rows(6)
    whole, end = running_returns(reward, done, valid, start, gamma=0.9)
    first, middle = running_returns(reward[:cut], done[:cut], valid[:cut], start, gamma=0.9)
    second, last = running_returns(reward[cut:], done[cut:], valid[cut:], middle, gamma=0.9)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(last, end)


def test_what_an_invalid_row_holds_is_ignored() -> None:
    reward, done, valid, start = make_rows(7)
    dirty = torch.where(valid, reward, torch.full_like(reward, torch.nan))
    expected = running_returns(reward, done, valid, start, gamma=0.9)
    torch.testing.assert_close(running_returns(dirty, done, valid, start, gamma=0.9), expected)


def test_inputs_are_left_as_they_are() -> None:
    rows = make_rows(8)
    copies = [x.clone() for x in rows]
    running_returns(*rows, gamma=0.9)
    assert all(torch.equal(a, b) for a, b in zip(copies, rows, strict=True))
