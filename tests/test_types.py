"""What a policy is for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from rlkit_es.types import ActionSpec, ObservationSpec, Spaces

ACTION = ActionSpec(2, low=(-0.4, -math.inf), high=(0.4, 1.0), shape=(2,))


def test_bounds_fit_up_to_the_rounding_of_float32() -> None:
    rounded = dataclasses.replace(ACTION, low=(float(np.float32(-0.4)), -math.inf))
    inner = dataclasses.replace(ACTION, low=(float(np.nextafter(np.float32(-0.4), 0)), -math.inf))
    assert rounded != inner
    assert rounded.fits(inner)
    assert inner.fits(rounded)
    assert ACTION.fits(rounded)


@pytest.mark.parametrize(
    "change",
    [
        {"low": (-0.401, -math.inf)},
        {"low": (-0.4, -1e30)},
        {"high": (0.4, 0.5)},
        {"low": (), "high": ()},
        {"size": 3},
        {"shape": (1, 2)},
        {"discrete": True},
        {"start": 1},
    ],
    ids=str,
)
def test_another_action_does_not_fit(change: dict) -> None:
    other = dataclasses.replace(ACTION, **change)
    assert not ACTION.fits(other)
    assert not other.fits(ACTION)


def test_a_policy_is_for_one_kind_of_observation() -> None:
    assert Spaces(ObservationSpec((3,)), ACTION).fits(Spaces(ObservationSpec((3,)), ACTION))
    assert not Spaces(ObservationSpec((3,)), ACTION).fits(Spaces(ObservationSpec((4,)), ACTION))
