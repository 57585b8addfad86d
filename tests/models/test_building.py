"""A network or encoder of the user's own that cannot work is refused in one line that names it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from policy_examples import box
from torch import Tensor, nn
from torch.nn import functional

import rlkit_es
from rlkit_es.errors import UserError
from rlkit_es.training import policy
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


class Sequence(nn.Module):
    """A recurrent layer, which takes (M, 6) for one sequence of M steps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Running(nn.Module):
    """Subtracts the mean of what it has seen so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return x - self.mean


class Counting(nn.Module):
    """Counts how often it is called, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x


def applied(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Applied(nn.Identity(), function)


def in_bfloat16(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return functional.linear(torch.tanh(x), torch.linspace(-1, 1, 36).view(6, 6)).float()


ACROSS_ROWS: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: Sequence(nn.LSTM(6, 6)),
    "GRU, backwards too": lambda: Sequence(nn.GRU(6, 3, bidirectional=True)),
    "attention": lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0),
    "normalised by hand": applied(lambda x: (x - x.mean(0)) / x.std(0)),
    "centred": applied(lambda x: x - x.mean(0)),
    "relative to the largest": applied(lambda x: x / x.abs().max()),
    "by the number of rows": applied(lambda x: x / len(x)),
    "by the place among the rows": applied(lambda x: x + torch.arange(len(x)).unsqueeze(1)),
}
NOT_TWICE: dict[str, Callable[[], nn.Module]] = {
    "dropout": applied(lambda x: functional.dropout(x, 0.2)),
    "noise": applied(lambda x: x + torch.randn_like(x)),
    "running statistics": Running,
}
BY_ROW: dict[str, Callable[[], nn.Module]] = {
    "not finite": applied(lambda x: x + x[:, :1].sign().log()),
    "bfloat16": applied(in_bfloat16),
    "statistics of each row": applied(lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)),
    "a sequence of each row": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 2)), Sequence(nn.LSTM(2, 2, batch_first=True)), nn.Flatten()
    ),
    "counts": Counting,
}


def refusals(make: Callable[[], nn.Module]) -> list[str]:
    """As a layer of a network, and of an encoder."""
    return [
        refusal(lambda: make_with_network(lambda *sizes: linear_with(make())(*sizes))),
        refusal(lambda: make_with_encoder(lambda inputs: flat(inputs, make()))),
    ]


@pytest.mark.parametrize("layer", ACROSS_ROWS)
def test_rows_that_influence_each_other_are_refused(layer: str) -> None:
    for kind, message in zip(("network", "encoder"), refusals(ACROSS_ROWS[layer]), strict=True):
        assert message.startswith(f"{kind} mine lets rows influence each other: ")


@pytest.mark.parametrize("layer", NOT_TWICE)
def test_what_makes_something_else_of_the_same_rows_is_refused(layer: str) -> None:
    for kind, message in zip(("network", "encoder"), refusals(NOT_TWICE[layer]), strict=True):
        assert message.startswith(f"{kind} mine makes something else of the same rows when they come again: ")


def test_what_fails_on_a_single_row_is_refused() -> None:
    def normalised(x: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, training=True)

    for message in refusals(applied(normalised)):
        assert re.search(r"mine must turn \(1, .*Expected more than 1 value per channel", message)
    for message in refusals(applied(lambda x: x.squeeze(0))):
        assert re.search(r"mine must turn \(1, .* and gives \(", message)


@pytest.mark.parametrize("layer", BY_ROW)
def test_functions_of_each_row_are_accepted(layer: str) -> None:
    make_with_network(lambda *sizes: linear_with(BY_ROW[layer]())(*sizes))
    make_with_encoder(lambda inputs: flat(inputs, BY_ROW[layer]()))


def indexed(x: Tensor) -> Tensor:
    """(M, ...) of small whole numbers to (M, F)."""
    return functional.one_hot(x.long(), 3).flatten(1).float()


def test_observations_may_be_indices() -> None:
    make_with_network(
        lambda inputs, outputs: nn.Sequential(Applied(nn.Identity(), indexed), nn.Linear(9, outputs))
    )
    make_with_encoder(lambda inputs: Applied(nn.Identity(), indexed))
    message = refusal(
        lambda: make_with_encoder(
            lambda inputs: Applied(nn.Identity(), lambda x: indexed(x) - indexed(x).mean(0))
        )
    )
    assert message.startswith("encoder mine lets rows influence each other: ")


@pytest.mark.parametrize("share", [True, False])
def test_trying_leaves_weights_and_buffers_as_they_were_made(
    share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(sizes, activation, output_gain, generator):  # type: ignore[no-untyped-def]
        return linear_with(Counting())(sizes[0], sizes[-1])

    def small(shape, generator):  # type: ignore[no-untyped-def]
        return flat(16, Counting())

    rlkit_es.register("network")(own)
    rlkit_es.register("encoder")(small)
    config = Config(algo="ppo", network="own", encoder="small", share_encoder=share)
    tried = make_policy(config, PICTURES, seed=0).state_dict()
    monkeypatch.setattr(policy, "check_rows", lambda *arguments: None)
    made = make_policy(config, PICTURES, seed=0).state_dict()
    assert any(name.endswith("calls") for name in made)
    assert tried.keys() == made.keys()
    assert all(torch.equal(x, made[name]) for name, x in tried.items())


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
        lambda inputs, outputs: Applied(nn.Linear(inputs, outputs), lambda x: x + 0 * torch.rand(1))
    )
    assert torch.equal(torch.random.get_rng_state(), before)
