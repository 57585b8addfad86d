from dataclasses import dataclass
from typing import Literal

import pytest

from rlkit_es.errors import (
    NonFiniteError,
    UserError,
    check_choices,
    check_counts,
    check_range,
    is_number,
    look_up,
    suggestion,
)

NAN, INF = float("nan"), float("inf")


@dataclass
class Config:
    size: object = 1
    kind: Literal["red", "green"] = "red"
    maybe: Literal["a", "b"] | None = None


def test_what_a_user_can_mend_is_an_error_of_its_own() -> None:
    # No ValueError: the command line's parser would catch it and print a box of its own.
    assert not issubclass(UserError, ValueError)
    assert issubclass(NonFiniteError, UserError)


def test_look_up_finds_or_names_the_closest() -> None:
    table = {"HalfCheetah-v4": 1, "Hopper-v4": 2}
    assert look_up("environment", "Hopper-v4", table) == 2
    with pytest.raises(UserError) as caught:
        look_up("environment", "halfcheeta-v4", table)
    assert str(caught.value) == "unknown environment 'halfcheeta-v4'; did you mean HalfCheetah-v4?"


@pytest.mark.parametrize("name", ["ppo", "PPO", "pp0", "ppoo"])
def test_suggestions_do_not_mind_case_and_small_slips(name: str) -> None:
    assert suggestion(name, ["ppo", "walker"]) == "did you mean ppo?"


def test_without_a_close_name_a_few_are_listed_and_many_are_not() -> None:
    assert suggestion("zzz", ["one", "two"]) == "there is one, two"
    assert suggestion("zzz", [f"name{i}" for i in range(100)]) == "nothing has a similar name"


@pytest.mark.parametrize("good", [1, 2, 10**9])
def test_counts_that_are_accepted(good: int) -> None:
    check_counts(Config(size=good), "size")


@pytest.mark.parametrize("bad", [0, -1, 1.0, 2.5, True, "2", None, NAN, INF, []])
def test_counts_that_are_refused(bad: object) -> None:
    with pytest.raises(UserError, match=r"^size must be a whole number of at least 1, got "):
        check_counts(Config(size=bad), "size")


def test_the_least_count_can_be_set() -> None:
    check_counts(Config(size=0), "size", least=0)
    with pytest.raises(UserError, match="at least 3, got 2"):
        check_counts(Config(size=2), "size", least=3)


@pytest.mark.parametrize("good", [0, 0.5, 1])
def test_a_closed_range_holds_its_ends(good: float) -> None:
    check_range(Config(size=good), "size", low=0, high=1)


@pytest.mark.parametrize("bad", [-1e-9, 1.0001, NAN, INF, -INF, True, "0.5", None, []])
def test_what_a_closed_range_refuses(bad: object) -> None:
    with pytest.raises(UserError, match=r"^size must be a number at least 0 and at most 1, got "):
        check_range(Config(size=bad), "size", low=0, high=1)


def test_an_open_end_is_refused_and_infinity_is_a_number() -> None:
    check_range(Config(size=INF), "size", above=0)
    with pytest.raises(UserError, match=r"^size must be a number above 0, got 0$"):
        check_range(Config(size=0), "size", above=0)


def test_choices() -> None:
    for good in (Config(), Config(kind="green", maybe="b")):
        check_choices(good)
    for bad in (Config(kind="blue"), Config(kind=None), Config(kind=1)):  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"^kind must be one of red, green, got "):
            check_choices(bad)
    with pytest.raises(UserError, match=r"^maybe must be one of a, b, got 'c'$"):
        check_choices(Config(maybe="c"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "answer"), [(1, True), (0.5, True), (NAN, True), (True, False), ("1", False), (None, False)]
)
def test_is_number(value: object, answer: bool) -> None:
    assert is_number(value) is answer
