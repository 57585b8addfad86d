from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rlkit_es.core.gae import generalized_advantage


class Example(NamedTuple):
    reward: Tensor
    value: Tensor
    next_value: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated

    def solve(self, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
        return generalized_advantage(
            self.reward,
            self.value,
            self.next_value,
            self.terminated,
            self.done,
            gamma=gamma,
            gae_lambda=gae_lambda,
            valid=self.valid,
        )


def make_example(seed: int, pattern: str = "next_step", steps: int = 24, envs: int = 5) -> Example:
    """Rows after a done are invalid in ``next_step``, all are valid in ``same_step``."""
    g = torch.Generator().manual_seed(seed)
    reward, value, next_value = torch.randn(3, steps, envs, generator=g, dtype=torch.float64)
    terminated = torch.rand(steps, envs, generator=g) < 0.12
    truncated = torch.rand(steps, envs, generator=g) < 0.12
    valid = torch.ones(steps, envs, dtype=torch.bool)
    if pattern == "scattered":
        valid = torch.rand(steps, envs, generator=g) < 0.8
        terminated, truncated = terminated & valid, truncated & valid
    if pattern == "next_step":
        for t in range(1, steps):
            after_done = terminated[t - 1] | truncated[t - 1]
            terminated[t] &= ~after_done
            truncated[t] &= ~after_done
            valid[t] = ~after_done
    return Example(reward, value, next_value, terminated, truncated, valid)


def double_sum(example: Example, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, up to the end of t's episode."""
    reward, value, next_value = (x.tolist() for x in example[:3])
    terminated, truncated, valid = (x.tolist() for x in example[3:])
    steps, envs = len(reward), len(reward[0])
    advantage = torch.zeros(steps, envs, dtype=torch.float64)
    target = torch.zeros(steps, envs, dtype=torch.float64)
    for n in range(envs):
        for t in range(steps):
            if not valid[t][n]:
                continue
            for k in range(t, steps):
                if not valid[k][n]:
                    break
                future = 0.0 if terminated[k][n] else next_value[k][n]
                delta = reward[k][n] + gamma * future - value[k][n]
                advantage[t, n] += (gamma * gae_lambda) ** (k - t) * delta
                if terminated[k][n] or truncated[k][n]:
                    break
            target[t, n] = advantage[t, n] + value[t][n]
    return advantage, target


@pytest.mark.parametrize("pattern", ["next_step", "same_step", "scattered"])
@pytest.mark.parametrize(
    ("gamma", "gae_lambda"), [(0.99, 0.95), (0.0, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.0), (0.7, 1.0)]
)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_double_sum(pattern: str, gamma: float, gae_lambda: float, seed: int) -> None:
    example = make_example(seed, pattern)
    for result, expected in zip(
        example.solve(gamma, gae_lambda), double_sum(example, gamma, gae_lambda), strict=True
    ):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("steps", "envs"), [(1, 1), (1, 7), (9, 1)])
def test_equals_the_double_sum_in_thin_shapes(steps: int, envs: int) -> None:
    example = make_example(5, steps=steps, envs=envs)
    torch.testing.assert_close(example.solve(0.99, 0.95), double_sum(example, 0.99, 0.95))


def test_float32_is_within_1e_6_of_the_scale() -> None:
    example = make_example(6, steps=200)
    single = Example(*(x.float() if x.is_floating_point() else x for x in example))
    for result, expected in zip(single.solve(0.99, 0.95), double_sum(example, 0.99, 0.95), strict=True):
        assert result.dtype == torch.float32
        assert (result - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("seed", range(3))
def test_without_valid_every_row_counts(seed: int) -> None:
    example = make_example(seed, "same_step")
    without = generalized_advantage(*example[:4], example.done, gamma=0.9, gae_lambda=0.8)
    torch.testing.assert_close(without, example.solve(0.9, 0.8), rtol=0, atol=0)


@pytest.mark.parametrize("pattern", ["next_step", "scattered"])
def test_target_is_advantage_plus_value_and_invalid_rows_are_zero(pattern: str) -> None:
    example = make_example(7, pattern)
    advantage, target = example.solve(0.99, 0.95)
    valid = example.valid
    assert not valid.all()
    torch.testing.assert_close(target[valid], (advantage + example.value)[valid])
    assert (advantage[~valid] == 0).all()
    assert (target[~valid] == 0).all()


def test_whatever_an_invalid_row_holds_is_ignored() -> None:
    example = make_example(8)
    garbage = torch.full_like(example.reward, torch.nan)
    dirty = example._replace(
        reward=torch.where(example.valid, example.reward, garbage),
        value=torch.where(example.valid, example.value, garbage),
        next_value=torch.where(example.valid, example.next_value, garbage),
    )
    torch.testing.assert_close(dirty.solve(0.99, 0.95), example.solve(0.99, 0.95), rtol=0, atol=0)


def test_terminated_cuts_the_bootstrap() -> None:
    example = make_example(9)
    changed = torch.where(example.terminated, torch.full_like(example.value, torch.nan), example.next_value)
    torch.testing.assert_close(
        example._replace(next_value=changed).solve(0.99, 0.95), example.solve(0.99, 0.95), rtol=0, atol=0
    )
    advantage, _ = example.solve(0.99, 0.95)
    torch.testing.assert_close(
        advantage[example.terminated], (example.reward - example.value)[example.terminated]
    )


def test_truncated_keeps_the_bootstrap_and_cuts_the_sum() -> None:
    example = make_example(10)
    advantage, _ = example.solve(0.99, 0.95)
    clock_ended = example.truncated & ~example.terminated
    assert clock_ended.any()
    delta = example.reward + 0.99 * example.next_value - example.value
    torch.testing.assert_close(advantage[clock_ended], delta[clock_ended])


def test_the_last_step_bootstraps() -> None:
    example = make_example(11, steps=1, envs=50)
    advantage, _ = example.solve(0.9, 0.95)
    alive = ~example.terminated
    torch.testing.assert_close(
        advantage[alive], (example.reward + 0.9 * example.next_value - example.value)[alive]
    )


@pytest.mark.parametrize("pattern", ["next_step", "same_step"])
def test_nothing_flows_back_over_the_end_of_an_episode(pattern: str) -> None:
    example = make_example(12, pattern)
    for env in range(example.reward.shape[1]):
        for end in example.done[:, env].nonzero().flatten().tolist():
            later = example.reward.clone()
            later[end + 1 :, env] += 100
            advantage, _ = example._replace(reward=later).solve(0.99, 0.95)
            unchanged, _ = example.solve(0.99, 0.95)
            torch.testing.assert_close(advantage[: end + 1], unchanged[: end + 1], rtol=0, atol=0)


def test_monte_carlo_target_is_the_discounted_return() -> None:
    example = make_example(13, "same_step")
    ends = torch.zeros_like(example.done)
    ends[-1] = True
    example = example._replace(
        next_value=example.value.roll(-1, 0), terminated=ends, truncated=torch.zeros_like(ends)
    )
    _, target = example.solve(0.9, 1.0)
    discounts = 0.9 ** torch.arange(len(ends), dtype=torch.float64)
    torch.testing.assert_close(target[0], (discounts[:, None] * example.reward).sum(0))


def test_inputs_are_left_as_they_are() -> None:
    example = make_example(14)
    copies = [x.clone() for x in example]
    example.solve(0.99, 0.95)
    for before, after in zip(copies, example, strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)
