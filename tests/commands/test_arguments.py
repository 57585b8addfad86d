"""What is looked at before the arguments are parsed."""

import dataclasses
from typing import get_type_hints

import pytest

from rlkit_es.commands.arguments import checked
from rlkit_es.errors import UserError
from rlkit_es.training.config import Config
from rlkit_es.training.other_names import ABSENT, OTHER_NAMES

HINTS = get_type_hints(Config)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--total-steps 1e6 --num-envs=2e1", "--total-steps 1000000 --num-envs=20"),
        ("--total_steps 1.5E6", "--total_steps 1500000"),
        ("--total-steps 1e+3", "--total-steps 1000"),
        ("--critic-epochs 1e1", "--critic-epochs 10"),
        ("--hidden-sizes 1e2 64", "--hidden-sizes 100 64"),
        ("--no-scale-actions --no-share-encoder --help", "--no-scale-actions --share-encoder=False --help"),
    ],
)
def test_whole_numbers_may_be_written_with_a_power_of_ten(given: str, expected: str) -> None:
    assert checked(given.split(), HINTS) == expected.split()


@pytest.mark.parametrize(
    "given", ["--total-steps 1.5e0", "--total-steps 1e", "--learning-rate 1e6", "--env 1e6"]
)
def test_what_is_no_whole_number_or_for_none_stays(given: str) -> None:
    assert checked(given.split(), HINTS) == given.split()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--lr 1", "unknown option --lr; here it is learning_rate"),
        ("--n-steps=5", "unknown option --n-steps; here it is rollout_steps"),
        ("--target_kl 1", "here it is max_kl, with stop mean_kl"),
        ("--gama 1", "unknown option --gama; did you mean --gamma"),
        ("--no-gamma", "unknown option --no-gamma; did you mean --gamma"),
        ("--xyzzy", "unknown option --xyzzy; nothing has a similar name"),
        ("--clip-vloss", "unknown option --clip-vloss; the value loss is never clipped here"),
    ],
)
def test_an_unknown_option_says_what_it_is_called_here_or_what_is_similar(given: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        checked(given.split(), HINTS)
    assert message in str(refused.value)


def test_other_names_are_of_settings_and_none_is_one() -> None:
    fields = {field.name for field in dataclasses.fields(Config)}
    assert not fields & (OTHER_NAMES.keys() | ABSENT.keys())
    assert {here.partition(",")[0] for here in OTHER_NAMES.values()} <= fields
