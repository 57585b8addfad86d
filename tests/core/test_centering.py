"""A gradient with less of what all samples have in common."""

import pytest
import torch
from torch import Tensor

from rlkit_es.core.centering import scale_common_gradient
from rlkit_es.core.losses import masked_mean

NAN = float("nan")
scales = pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])


def example(valid: float = 0.7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Values (30, 4), which of them are valid, and what a loss says of each."""
    g = torch.Generator().manual_seed(seed)
    x, told = (torch.randn(30, 4, generator=g, dtype=torch.float64) for _ in range(2))
    keep = torch.rand(30, generator=g) < valid
    return x.requires_grad_(), keep, told * keep.unsqueeze(-1)


def gradient(x: Tensor, keep: Tensor, told: Tensor, scale: float) -> Tensor:
    (found,) = torch.autograd.grad((scale_common_gradient(x, masked_mean(x, keep), scale) * told).sum(), x)
    return found


@scales
@pytest.mark.parametrize("valid", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_values_are_what_they_were_to_the_bit(scale: float, valid: float, dtype: torch.dtype) -> None:
    x, keep, _ = example(valid)
    x = x.to(dtype)
    assert torch.equal(scale_common_gradient(x, masked_mean(x, keep), scale), x)


@scales
@pytest.mark.parametrize("valid", [0.5, 1.0])
def test_the_mean_of_the_gradient_is_scaled_and_nothing_else(scale: float, valid: float) -> None:
    x, keep, told = example(valid)
    mean = told[keep].mean(0) * keep.unsqueeze(-1)
    torch.testing.assert_close(gradient(x, keep, told, scale), told - mean + scale * mean)


@scales
def test_samples_that_are_not_kept_may_hold_anything(scale: float) -> None:
    x, keep, told = example()
    spoilt = torch.where(keep.unsqueeze(-1), x.detach(), torch.tensor(NAN)).requires_grad_()
    assert torch.equal(gradient(spoilt, keep, told, scale)[keep], gradient(x, keep, told, scale)[keep])


def test_with_0_a_linear_layer_learns_as_if_its_inputs_were_centred() -> None:
    x, keep, told = example(1.0)
    inputs = torch.randn(30, 7, dtype=x.dtype) + 5.0
    weight = torch.randn(4, 7, dtype=x.dtype, requires_grad=True)
    outputs = inputs @ weight.T
    outputs = scale_common_gradient(outputs, masked_mean(outputs, keep), 0.0)
    (found,) = torch.autograd.grad((outputs * told).sum(), weight)
    torch.testing.assert_close(found, told.T @ (inputs - inputs.mean(0)))
