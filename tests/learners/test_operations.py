"""The text that says what a function of tensors does."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from rlkit_es.learners.compilation import missing_compiler
from rlkit_es.learners.operations import operations


def gradient(x: Tensor, weight: Tensor) -> list[Tensor]:
    with torch.enable_grad():
        leaf = weight.detach().requires_grad_()
        value = torch.tanh(x @ leaf).square().sum()
    return [torch.autograd.grad(value, leaf)[0], x]


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, generator=generator), torch.randn(3, 2, generator=generator)


def test_it_is_the_same_for_other_data() -> None:
    said = operations(gradient, *example())
    assert said == operations(gradient, *example(seed=1))
    assert "aten.tanh_backward" in said  # what autograd does is part of it
    assert said.splitlines()[-1].endswith("'given.0']")  # what is handed through is known again


def test_every_tensor_is_named_by_where_it_comes_from() -> None:
    def function(x: Tensor) -> list[Tensor]:
        low, high = x.split(2)
        return [low - high]

    split, difference, end = operations(function, torch.arange(4.0)).splitlines()
    assert "'given.0'" in split
    assert "'0.0', '0.1'" in difference
    assert end == "return ['1.0']"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: [x + 1], lambda x: [x + 2]),
        (lambda x: [x + 1], lambda x: [x.double() + 1]),
        (lambda x: [x + 1, x], lambda x: [x, x + 1]),
        (lambda x: [x * torch.tensor([1.0, 2.0])], lambda x: [x * torch.tensor([1.0, 3.0])]),
        (lambda x: [x.clone().add_(x)], lambda x: [x.clone().add(x)]),
        (lambda x: [x.sum(0, keepdim=True)], lambda x: [x.sum(0)]),
        (lambda x: [x[:1] - x[1:]], lambda x: [x[1:] - x[:1]]),
    ],
    ids=["number", "dtype", "order", "constant", "in place", "keyword", "roles"],
)
def test_it_differs_where_the_function_does(one: object, other: object) -> None:
    x = torch.tensor([3.0, 4.0])
    assert operations(one, x) == operations(one, x)  # type: ignore[arg-type]
    assert operations(one, x) != operations(other, x)  # type: ignore[arg-type]


def test_of_several_seeds_at_once_it_is_known_again_too() -> None:
    def function(*stacked: Tensor) -> list[Tensor]:
        def loss(weight: Tensor, x: Tensor) -> Tensor:
            return torch.tanh(x @ weight).square().sum()

        return [torch.func.vmap(torch.func.grad(loss))(*stacked)]

    def stacked(seed: int) -> tuple[Tensor, Tensor]:
        x, weight = example(seed)
        return torch.stack([weight, weight + 1]), torch.stack([x, x - 1])

    assert operations(function, *stacked(0)) == operations(function, *stacked(1))


_RUN = """
import sys
import rlkit_es
agent = rlkit_es.PPO("CartPole-v1", num_envs=8, rollout_steps=32, hidden_sizes=(8,), compile="{compile}")
agent.learn(512)
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""


def imported_by(compile: str) -> str:
    command = [sys.executable, "-c", _RUN.format(compile=compile)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def test_an_eager_update_imports_nothing_of_torchs_compiler() -> None:
    assert imported_by("off") == "[]"


@pytest.mark.skipif(missing_compiler() is not None, reason=f"nothing to compile with: {missing_compiler()}")
def test_nor_does_one_that_was_compiled_before() -> None:
    agent_of_before = imported_by("on")
    assert agent_of_before in ("[]", "['torch._dynamo', 'torch._inductor', 'sympy']")
    assert imported_by("on") == "[]"
