"""The comparison of dropped samples with as many at random, on a few updates."""

import pytest
from dropped_signal import measure


def test_a_mask_keeps_what_is_close_and_a_full_batch_would_be_the_full_step() -> None:
    results = measure("Pendulum-v1", 0, 2)
    kept = [results[f"kl_below, rate {rate}"]["kept fraction of samples"] for rate in (1.0, 2.0, 4.0)]
    assert 0 < kept[0] <= kept[1] <= kept[2] <= 1
    for mask, values in results.items():
        assert -1 <= values["cosine with the full step"] <= 1 + 1e-5
        if values["kept fraction of samples"] == 1:
            assert values["share of the full step's gain"] == pytest.approx(1, rel=1e-3), mask
