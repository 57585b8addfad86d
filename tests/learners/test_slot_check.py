"""A function of the user's own that does not fit its slot is refused in one line, before training."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from update_examples import make_config_for, make_policy

import rlkit_es
from rlkit_es import run
from rlkit_es.errors import UserError
from rlkit_es.learners.learner import make_learner
from rlkit_es.learners.slots import DATA, SLOTS
from rlkit_es.types import PolicyStats

pytestmark = pytest.mark.usefixtures("nothing_stays_registered")

RESULTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "None": lambda x: None,
    "a Python object of type bool": lambda x: True,
    "a Python object of type float": lambda x: 1.0,
    "a Python object of type ndarray": lambda x: x.detach().numpy(),
    "() float32": lambda x: x.mean(),
    "() bool": lambda x: (x > 0).any(),
    "() int64": lambda x: x.argmax(),
    "(8,) float32": lambda x: x,
    "(8,) float64": lambda x: x.double(),
    "(8,) bfloat16": lambda x: x.bfloat16(),
    "(8,) bool": lambda x: x > 0,
    "(8,) int64": lambda x: x.long(),
    "(8, 1) float32": lambda x: x.unsqueeze(-1),
    "(8, 1) bool": lambda x: x.unsqueeze(-1) > 0,
    "(7,) float32": lambda x: x[1:],
    "(1,) bool": lambda x: x[:1] > 0,
}
VALUES = {"(8,) float32", "(8,) float64", "(8,) bfloat16"}
RIGHT = {"surrogate": VALUES, "constraint": VALUES, "mask": {"(8,) bool"}, "stop": {"() bool"}}
WANTED = {
    "surrogate": "(M,) floating point",
    "constraint": "(M,) floating point",
    "mask": "(M,) bool",
    "stop": "() bool",
}
EVERY = [(slot, name) for slot, table in SLOTS.items() for name in table]
CAN_BE_FILLED = [
    *(("ppo", *function) for function in EVERY),
    *(("trpo", slot, name) for slot, name in EVERY if slot in ("surrogate", "mask")),
]


def registered(slot: str, function: Callable[..., Any], arguments: Sequence[str] | None = None) -> None:
    """``function`` as "mine", which looks as if it had the arguments of the slot's data, or these."""

    def mine(*data: Any, **settings: Any) -> Any:
        return function(*data, **settings)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [inspect.Parameter(name, kind) for name in arguments or DATA[slot]]
    mine.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    rlkit_es.register(slot)(mine)  # type: ignore[arg-type]


def make(slot: str, algo: str = "ppo", double: bool = False, **changes: Any) -> None:
    policy = make_policy().double() if double else make_policy()
    config = make_config_for(algo, **{slot: "mine", "minibatch_size": 8, **changes})
    make_learner(algo, policy, config, torch.Generator())


def refusal(slot: str) -> UserError:
    with pytest.raises(UserError) as caught:
        make(slot)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("returned", RESULTS)
def test_what_a_slot_takes_and_nothing_else_is_accepted(slot: str, returned: str) -> None:
    registered(slot, lambda stats, *others: RESULTS[returned](stats.log_ratio))
    if returned in RIGHT[slot]:
        make(slot)
        return
    message = str(refusal(slot))
    assert message.startswith(
        f"{slot} mine returned {returned} for M = 8: it must return a tensor {WANTED[slot]}, "
    )


@pytest.mark.parametrize(
    ("raised", "line"),
    [(KeyError("sharpness"), "'sharpness' (KeyError)"), (ValueError("one\ntwo"), "one (ValueError)")],
)
@pytest.mark.parametrize("slot", SLOTS)
def test_one_that_fails_is_named_with_the_first_line_of_its_error(
    slot: str, raised: Exception, line: str
) -> None:
    def fail(*data: Any) -> None:
        raise raised

    registered(slot, fail)
    error = refusal(slot)
    assert str(error).startswith(f"{slot} mine fails on 8 samples, of which it must return a tensor (")
    assert str(error).endswith(f": {line}")
    assert error.__cause__ is raised


WITHOUT_GRADIENT: dict[str, Callable[[PolicyStats], torch.Tensor]] = {
    "detached": lambda stats: (stats.ratio * stats.kl).detach(),
    "constant": lambda stats: torch.ones(len(stats.kl)),
    "compared": lambda stats: (stats.ratio > 1).float(),
}
WITH_GRADIENT: dict[str, Callable[[PolicyStats], torch.Tensor]] = {
    "ratio": lambda stats: stats.ratio,
    "log ratio": lambda stats: stats.log_ratio,
    "kl": lambda stats: stats.kl,
    "kl, weighted": lambda stats: stats.ratio.detach() * stats.kl,
    "kl, where it is far": lambda stats: (stats.kl - 10).clamp(min=0),
}


@pytest.mark.parametrize("slot", ["surrogate", "constraint"])
@pytest.mark.parametrize("returned", WITHOUT_GRADIENT)
def test_what_is_learned_from_must_have_a_gradient(slot: str, returned: str) -> None:
    registered(slot, lambda stats, *others: WITHOUT_GRADIENT[returned](stats))
    assert str(refusal(slot)).startswith(f"{slot} mine has no gradient with respect to stats, ")


@pytest.mark.parametrize("algo", ["ppo", "sd_ppo", "trpo", "sd_trpo"])
def test_an_advantage_alone_is_no_surrogate(algo: str) -> None:
    registered("surrogate", lambda stats, advantage: advantage)
    with pytest.raises(UserError, match=r"^surrogate mine has no gradient with respect to stats, [^\n]*$"):
        make("surrogate", algo)


@pytest.mark.parametrize("slot", ["surrogate", "constraint"])
@pytest.mark.parametrize("returned", WITH_GRADIENT)
def test_a_gradient_through_any_of_the_stats_is_enough(slot: str, returned: str) -> None:
    registered(slot, lambda stats, *others: WITH_GRADIENT[returned](stats))
    with torch.no_grad():
        make(slot)


@pytest.mark.parametrize(("algo", "slot", "name"), CAN_BE_FILLED)
@pytest.mark.parametrize("double", [False, True])
def test_copies_of_the_built_in_functions_are_accepted(algo: str, slot: str, name: str, double: bool) -> None:
    original = SLOTS[slot][name]
    registered(slot, original, list(inspect.signature(original).parameters))
    make(slot, algo, double, **({"mask_at": "trial"} if slot == "mask" else {}))


@pytest.mark.parametrize("samples", [1, 5, 300])
def test_it_is_tried_once_on_what_a_minibatch_will_be(samples: int) -> None:
    seen: dict[str, list[tuple[Any, ...]]] = {slot: [] for slot in SLOTS}
    results = {"mask": lambda x: x < 1, "stop": lambda x: (x > 1).any()}

    def noted(*data: Any, slot: str) -> Any:
        seen[slot].append(data)
        return results.get(slot, torch.clone)(data[0].log_ratio)

    for slot in SLOTS:
        registered(slot, functools.partial(noted, slot=slot))
    make("mask", double=True, **dict.fromkeys(SLOTS, "mine"), minibatch_size=samples)
    for slot, calls in seen.items():
        ((stats, *others),) = calls
        assert isinstance(stats, PolicyStats)
        tensors = [stats.log_ratio, stats.kl, *others]
        assert all(tensor.shape == (samples,) for tensor in tensors)
        kinds = [torch.float64, torch.float64, torch.bool if slot == "stop" else torch.float64]
        assert [tensor.dtype for tensor in tensors] == kinds[: len(tensors)]
        assert 0 < (stats.ratio - 1).abs().max() < 0.2
        assert (stats.kl >= 0).all()


def test_a_function_that_draws_does_not_move_the_global_generator() -> None:
    registered("mask", lambda stats, advantage: torch.rand(len(advantage)) < 0.5)
    before = torch.random.get_rng_state()
    make("mask")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_command_line_says_it_before_it_begins_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    Path("averaging.py").write_text(
        "import rlkit_es\n\n\n"
        "@rlkit_es.register('surrogate')\n"
        "def averaged(stats, advantage):\n"
        "    return (stats.ratio * advantage).mean()\n"
    )
    options = ["--algo", "ppo", "--surrogate", "averaged", "--env", "CartPole-v1", "--run-dir", "out"]
    assert run.main(["--import", "averaging", *options]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: surrogate averaged returned \(\) float32 for M = \d+: .*\(M,\).*\n", said)
    assert not Path("out").exists()
