"""Encoders against plain modules, and the arithmetic that they are run in."""

import math
from collections.abc import Iterator

import pytest
import torch
from policy_examples import PICTURE, pictures, wander
from torch import Tensor, nn

from rlkit_es.errors import UserError
from rlkit_es.models import encoders
from rlkit_es.models.encoders import Encoder, NatureCNN, Precision, arithmetic, weights_of_nature_cnn

SHAPES = [(4, 84, 84), (1, 36, 36), (3, 64, 96), (2, 37, 51), (5, 100, 36)]
SMALL = PICTURE.shape

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def make(shape: tuple[int, ...] = SMALL, seed: int = 0) -> NatureCNN:
    """With biases that are not 0."""
    return wander(NatureCNN(shape, torch.Generator().manual_seed(seed)), size=0.02)


class HeightWidthChannels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def plain(network: NatureCNN, shape: tuple[int, ...]) -> nn.Sequential:
    """The published network of torch's own modules, with the same weights."""
    convolutions = (
        nn.Conv2d(shape[0], 32, 8, stride=4),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.Conv2d(64, 64, 3, stride=1),
    )
    layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    flat = nn.Sequential(*layers, HeightWidthChannels(), nn.Flatten())
    last = nn.Linear(flat(torch.zeros(1, *shape)).shape[1], 512)
    with torch.no_grad():
        for i, convolution in enumerate(convolutions):
            convolution.weight.copy_(getattr(network, f"weight_{i}").permute(0, 3, 1, 2))
            convolution.bias.copy_(getattr(network, f"bias_{i}"))
        last.weight.copy_(network.weight_last)
        last.bias.copy_(network.bias_last)
    return nn.Sequential(flat, last, nn.ReLU())


@every_shape
@torch.no_grad()
def test_it_is_the_network_of_mnih_et_al(shape: tuple[int, ...]) -> None:
    network = make(shape)
    given = pictures(3, shape)
    features, expected = network(given), plain(network, shape)(given / 255)
    assert features.shape == (3, 512)
    assert 0.1 < (features > 0).float().mean() < 0.9
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_its_gradient_is_that_of_the_plain_network() -> None:
    network, given = make().double(), pictures(5)
    other = plain(network, SMALL).double()
    direction = torch.randn(5, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (network(given) * direction).sum().backward()
    (other(given.double() / 255) * direction).sum().backward()
    convolutions = [layer for layer in other[0] if isinstance(layer, nn.Conv2d)]
    for i, convolution in enumerate(convolutions):
        found = getattr(network, f"weight_{i}").grad.permute(0, 3, 1, 2)
        torch.testing.assert_close(found, convolution.weight.grad)
        torch.testing.assert_close(getattr(network, f"bias_{i}").grad, convolution.bias.grad)
    torch.testing.assert_close(network.weight_last.grad, other[1].weight.grad)


@every_shape
def test_the_first_weights_are_orthogonal_with_gain_root_two_and_the_biases_zero(
    shape: tuple[int, ...],
) -> None:
    for name, parameter in NatureCNN(shape, torch.Generator().manual_seed(0)).named_parameters():
        if "bias" in name:
            assert not parameter.any()
            continue
        matrix = parameter.detach().flatten(1).double()
        if len(matrix) > matrix.shape[1]:
            matrix = matrix.T
        gram = matrix @ matrix.T
        torch.testing.assert_close(gram, 2 * torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-4)


def test_the_generator_fixes_the_weights() -> None:
    one, same, other = (
        nn.utils.parameters_to_vector(NatureCNN(SMALL, torch.Generator().manual_seed(seed)).parameters())
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@every_shape
def test_its_weights_are_counted_without_making_it(shape: tuple[int, ...]) -> None:
    named = NatureCNN(shape, torch.Generator()).named_parameters()
    assert weights_of_nature_cnn(shape) == sum(p.numel() for name, p in named if "weight" in name)


def test_counting_takes_any_shape() -> None:
    for shape in ((0, 0, 0), (4, 1, 1), (4, 8, 10**12), (10**12, 84, 84), (3, 20, 20)):
        assert weights_of_nature_cnn(shape) >= 0


@pytest.mark.parametrize("shape", [(4, 35, 84), (4, 84, 35), (1, 8, 8), (3, 0, 84)], ids=str)
def test_a_picture_that_is_too_small_is_refused_in_one_line_with_a_way_out(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=rf"^[^\n]*{shape[1]} x {shape[2]}[^\n]*ResizeObservation[^\n]*$"):
        NatureCNN(shape, torch.Generator())


# --- in chunks ---


@pytest.mark.parametrize("rows", [1, 4, 5, 11])
def test_without_gradients_pictures_are_encoded_in_chunks_and_with_them_at_once(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "_CHUNK", 4)
    network, seen = make(), []
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    encoder, given = Encoder(network, "float32"), pictures(rows)
    whole = encoder(given)
    assert seen == [rows]
    seen.clear()
    with torch.no_grad():
        chunked = encoder(given)
    assert len(seen) == math.ceil(rows / 4)
    assert max(seen) <= 4
    assert sum(seen) == rows
    torch.testing.assert_close(chunked, whole.detach(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_chunks_as_they_are_equal_the_whole() -> None:
    encoder, given = Encoder(make(), "float32"), pictures(encoders._CHUNK + 3)
    torch.testing.assert_close(encoder(given), encoder.network(given), rtol=1e-5, atol=1e-6)


# --- precision ---


@pytest.mark.parametrize("shape", [SMALL, (4, 84, 84)], ids=str)
def test_bfloat16_is_near_float32_and_leaves_parameters_features_and_gradients_in_float32(
    shape: tuple[int, ...],
) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        network = make(shape)
        features = Encoder(network, precision)(pictures(8, shape))
        features.square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        assert features.dtype == gradient.dtype == torch.float32
        found[precision] = features.detach(), gradient
    (features, gradient), (rough_features, rough_gradient) = found["float32"], found["bfloat16"]
    for rough, exact, bound in (
        (rough_features, features, 0.02),
        (rough_gradient, gradient, 0.05),
    ):
        assert 0 < (rough - exact).norm() < bound * exact.norm()


@torch.no_grad()
def test_bfloat16_keeps_no_weights_from_one_call_to_the_next() -> None:
    encoder, given = Encoder(make(), "bfloat16"), pictures(3)
    with torch.autocast("cpu", torch.bfloat16):  # whose cache a call inside could fill
        before = encoder(given)
        encoder.network.weight_last.mul_(2)
        encoder.network.bias_last.mul_(2)
        after = encoder(given)
    torch.testing.assert_close(after, 2 * before, rtol=1e-2, atol=1e-3)


@pytest.fixture
def _asked_anew() -> Iterator[None]:
    arithmetic.cache_clear()
    yield
    arithmetic.cache_clear()


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx2": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_takes_bfloat16_on_a_cpu_that_multiplies_it(
    capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert arithmetic("auto", "cpu") == expected
    with torch.no_grad():
        features, rough = (Encoder(make(), kind)(pictures(4)) for kind in ("auto", "bfloat16"))
    assert torch.equal(features, rough) == (expected == torch.bfloat16)


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize("supported", [True, False])
def test_auto_takes_bfloat16_on_a_gpu_that_multiplies_it_in_hardware(
    supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def is_supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert arithmetic("auto", "cuda") == (torch.bfloat16 if supported else torch.float32)
    assert asked == [False]


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_what_is_asked_for_is_taken_whatever_the_hardware(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for capable in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capable=capable: {"amx_bf16": capable})
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda capable=capable, **_: capable)
        arithmetic.cache_clear()
        kinds: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        assert {kind: arithmetic(kind, device) for kind in kinds} == kinds
    assert arithmetic("auto", "mps") == torch.float32
