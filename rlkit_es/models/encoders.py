"""Networks that turn a picture into features, before those that every policy has."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit_es.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]

_GAIN = 2**0.5
_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, kernel, stride
_FEATURES = 512
SMALLEST_PICTURE = 36  # that `NatureCNN` takes
_CHUNK = 256  # pictures at a time where no gradient is taken: a bound on memory


class NatureCNN(nn.Module):
    """The convolutional network of Mnih et al. (Nature, 2015): 3 convolutions and 512 features.

    Orthogonal weights with gain sqrt(2) and zero biases, as usual for PPO on Atari. The weights lie in
    memory with the channels last, which CPUs and tensor cores compute with fastest.

    Args:
        shape: (C, H, W) of a picture.
        generator: for the initial weights.

    Raises:
        UserError: the picture is smaller than 36 x 36.
    """

    def __init__(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        _, height, width = shape
        if min(height, width) < SMALLEST_PICTURE:
            raise UserError(
                f"nature_cnn takes pictures from {SMALLEST_PICTURE} pixels wide, not {height} x {width}: "
                "if these are numbers (a board, a grid) wrap the environment in "
                "gymnasium.wrappers.FlattenObservation; else register an encoder of your own, or enlarge the "
                "picture with gymnasium.wrappers.ResizeObservation"
            )
        convolutions, flat = _sizes(shape)
        for i, size in enumerate(convolutions):
            weight = torch.empty(size)
            nn.init.orthogonal_(weight, _GAIN, generator=generator)
            # (out, height, width, in): as it lies; what the convolution is given is a view of it.
            self.register_parameter(f"weight_{i}", nn.Parameter(weight.permute(0, 2, 3, 1).contiguous()))
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(len(weight))))
        last = torch.empty(_FEATURES, flat)
        nn.init.orthogonal_(last, _GAIN, generator=generator)
        self.weight_last = nn.Parameter(last)
        self.bias_last = nn.Parameter(torch.zeros(_FEATURES))

    def forward(self, picture: Tensor) -> Tensor:
        """(M, C, H, W) of 0 to 255 to (M, 512)."""
        kind = picture.device.type
        half = torch.is_autocast_enabled(kind)
        return _features(picture, self._layers(torch.get_autocast_dtype(kind) if half else None))

    def frozen(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The same function in that arithmetic, with the weights as they are now, converted beforehand."""
        layers = self._layers(dtype)
        return lambda picture: _features(picture, layers).to(self.bias_last.dtype)

    def _layers(self, dtype: torch.dtype | None) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each, in that type or in their own."""
        names = (*(str(i) for i in range(len(_LAYERS))), "last")
        pairs = ((getattr(self, f"weight_{name}"), getattr(self, f"bias_{name}")) for name in names)
        return [(weight.to(dtype or weight.dtype), bias.to(dtype or bias.dtype)) for weight, bias in pairs]


def _features(picture: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(M, C, H, W) of 0 to 255 to (M, F) in the layers' type."""
    *convolutions, (last_weight, last_bias) = layers
    x = picture.to(dtype=last_bias.dtype, memory_format=torch.channels_last) * (1 / 255)
    for (weight, bias), (_, _, stride) in zip(convolutions, _LAYERS, strict=True):
        x = torch.relu(functional.conv2d(x, weight.permute(0, 3, 1, 2), bias, stride))
    x = x.permute(0, 2, 3, 1).flatten(1)  # as it lies
    return torch.relu(functional.linear(x, last_weight, last_bias))


def weights_of_nature_cnn(shape: tuple[int, ...]) -> int:
    """How many weights `NatureCNN` has for pictures (C, H, W), without making it."""
    convolutions, flat = _sizes(shape)
    return sum(map(math.prod, convolutions)) + _FEATURES * flat


def _sizes(shape: tuple[int, ...]) -> tuple[list[tuple[int, int, int, int]], int]:
    """(out, in, height, width) of each convolution's weight; how many numbers the last one leaves."""
    channels, height, width = shape
    sizes = []
    for outputs, kernel, stride in _LAYERS:
        sizes.append((outputs, channels, kernel, kernel))
        height, width = (max((side - kernel) // stride + 1, 0) for side in (height, width))
        channels = outputs
    return sizes, channels * height * width


# A constructor takes the arguments of `NatureCNN`.
ENCODERS: dict[str, Callable[..., nn.Module]] = {"nature_cnn": NatureCNN}


class Encoder(nn.Module):
    """A network from pictures to features, with the arithmetic that it is run in.

    Args:
        network: (M, C, H, W) uint8 to (M, F).
        precision: of its arithmetic. The parameters, and what comes out, keep their own.
    """

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.precision = precision

    def forward(self, picture: Tensor) -> Tensor:
        """(M, C, H, W) to (M, F)."""
        kind = picture.device.type
        if arithmetic(self.precision, kind) == torch.float32:
            return self._in_chunks(picture)
        # No cache: it would keep weights of one step for the next inside of functional calls.
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False):
            return self._in_chunks(picture).float()

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """The same function without gradients, for as long as the parameters stay as they are."""
        if not isinstance(self.network, NatureCNN):
            return self
        return self.network.frozen(arithmetic(self.precision, self.network.bias_last.device.type))

    def _in_chunks(self, picture: Tensor) -> Tensor:
        whole = torch.is_grad_enabled() or torch.compiler.is_exporting()
        if whole or len(picture) <= _CHUNK:
            features: Tensor = self.network(picture)
            return features
        return torch.cat([self.network(chunk) for chunk in torch.split(picture, _CHUNK)])


@functools.cache
def arithmetic(precision: Precision, device_type: str) -> torch.dtype:
    """float32 or bfloat16; ``auto`` is bfloat16 where the hardware multiplies matrices of it.

    That is a GPU with such tensor cores, or a CPU with AMX or AVX512_BF16.
    """
    if precision == "auto":
        if device_type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            capable = torch.cpu.get_capabilities() if device_type == "cpu" else {}
            fast = bool(capable.get("amx_bf16") or capable.get("avx512_bf16"))
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
