"""A network or encoder of the user's own that cannot work is refused in one line that names it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from policy_examples import box
from torch import nn

import rlkit_es
from rlkit_es.errors import UserError
from rlkit_es.training.config import Config
from rlkit_es.training.policy import make_policy
from rlkit_es.types import ActionSpec, ObservationSpec, Spaces

pytestmark = pytest.mark.usefixtures("nothing_stays_registered")

CONTINUOUS = Spaces(ObservationSpec((3,)), box([-1, -1], [1, 1]))
DISCRETE = Spaces(ObservationSpec((3,)), ActionSpec(size=2, discrete=True))
PICTURES = Spaces(ObservationSpec((1, 4, 4)), ActionSpec(size=2, discrete=True))
SPACES = pytest.mark.parametrize("spaces", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])


class Applied(nn.Module):
    """A module after which a function is applied."""

    def __init__(self, module: nn.Module, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.module(x))


def make_with_network(make: Callable[[int, int], Any], spaces: Spaces = CONTINUOUS) -> Any:
    def mine(sizes, activation, output_gain, generator):  # type: ignore[no-untyped-def]
        return make(sizes[0], sizes[-1])

    rlkit_es.register("network")(mine)
    return make_policy(Config(algo="ppo", network="mine"), spaces, seed=0)


def make_with_encoder(make: Callable[[int], Any]) -> Any:
    def mine(shape, generator):  # type: ignore[no-untyped-def]
        return make(shape[0] * shape[1] * shape[2])

    rlkit_es.register("encoder")(mine)
    return make_policy(Config(algo="ppo", encoder="mine"), PICTURES, seed=0)


def flat(inputs: int, *after: nn.Module) -> nn.Module:
    return nn.Sequential(Applied(nn.Flatten(), torch.Tensor.float), nn.Linear(inputs, 6), *after)


def linear_with(layer: nn.Module) -> Callable[[int, int], nn.Module]:
    return lambda inputs, outputs: nn.Sequential(nn.Linear(inputs, 6), layer, nn.Linear(6, outputs))


def fail(*sizes: int) -> nn.Module:
    raise KeyError("width")


def refusal(make: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_constructor_that_fails_is_named_with_its_error() -> None:
    assert refusal(lambda: make_with_network(fail)) == "network mine cannot be made: 'width' (KeyError)"
    assert refusal(lambda: make_with_encoder(fail)) == "encoder mine cannot be made: 'width' (KeyError)"


def test_what_is_no_module_is_refused() -> None:
    for kind, make in (("network", make_with_network), ("encoder", make_with_encoder)):
        for made, said in ((None, "None"), (torch.zeros(2), "(2,) float32"), (3, "a Python object")):
            message = refusal(lambda make=make, made=made: make(lambda *sizes: made))  # type: ignore[misc]
            assert message.startswith(f"{kind} mine is {said}")
            assert message.endswith(": it must be a torch.nn.Module")


NO_FUNCTIONS_OF_ONE_ROW = [
    *(nn.BatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False), nn.SyncBatchNorm(6)),
    *(nn.Dropout(0.1), nn.Dropout1d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()),
]


@pytest.mark.parametrize("layer", NO_FUNCTIONS_OF_ONE_ROW, ids=repr)
def test_layers_that_make_an_output_depend_on_more_than_its_row_are_refused(layer: nn.Module) -> None:
    kind = type(layer).__name__
    message = refusal(lambda: make_with_network(linear_with(layer)))
    assert message.startswith(f"network mine has the layer 1 ({kind})")
    message = refusal(lambda: make_with_encoder(lambda inputs: flat(inputs, nn.Sequential(layer))))
    assert message.startswith(f"encoder mine has the layer 2.0 ({kind})")
    message = refusal(lambda: make_with_network(lambda *sizes: layer))
    assert message.startswith(f"network mine has the layer {kind},")


@pytest.mark.parametrize("layer", [nn.LayerNorm(6), nn.Dropout(0.0), nn.Identity(), nn.GELU()], ids=repr)
def test_other_layers_are_accepted(layer: nn.Module) -> None:
    make_with_network(linear_with(layer))
    make_with_encoder(lambda inputs: flat(inputs, layer))


@SPACES
def test_a_network_without_parameters_is_refused(spaces: Spaces) -> None:
    def nothing(inputs: int, outputs: int) -> nn.Module:
        return Applied(nn.Identity(), lambda x: x[:, :outputs])

    message = refusal(lambda: make_with_network(nothing, spaces))
    assert message.startswith("network mine has no parameters")


WRONG: dict[str, Callable[[torch.Tensor], Any]] = {
    "None": lambda x: None,
    "a Python object of type tuple": lambda x: (x, x),
    "() float32": torch.mean,
    "(2,) float32": lambda x: x[:, 0],
    "(1, 2": lambda x: x.flatten()[None, :2],
    "(2, 1, ": lambda x: x[:, None],
    "(2, 2) int64": lambda x: x[:, :2].long(),
}


@SPACES
@pytest.mark.parametrize("given", WRONG)
def test_what_a_network_gives_is_said_where_it_is_wrong(spaces: Spaces, given: str) -> None:
    def wrong(inputs: int, outputs: int) -> nn.Module:
        return Applied(nn.Linear(inputs, outputs), WRONG[given])

    message = refusal(lambda: make_with_network(wrong, spaces))
    assert re.match(r"network mine must turn \(2, 3\) into \(2, 2\)", message)
    assert f"and gives {given}" in message


@pytest.mark.parametrize("given", WRONG)
def test_what_an_encoder_gives_is_said_where_it_is_wrong(given: str) -> None:
    message = refusal(lambda: make_with_encoder(lambda inputs: Applied(flat(inputs), WRONG[given])))
    assert message.startswith("encoder mine must turn (2, 1, 4, 4) into (2, F)")
    assert f"and gives {given}" in message


def test_an_encoder_that_fails_is_named_with_its_error() -> None:
    message = refusal(lambda: make_with_encoder(lambda inputs: nn.Linear(3, 3)))
    assert message.startswith("encoder mine must turn (2, 1, 4, 4) into (2, F): mat1 and mat2")


def test_trying_a_network_does_not_move_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    make_with_network(
        lambda inputs, outputs: Applied(nn.Linear(inputs, outputs), lambda x: x * torch.rand(1))
    )
    assert torch.equal(torch.random.get_rng_state(), before)
