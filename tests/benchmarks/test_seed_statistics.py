"""Statistics over a few seeds."""

import numpy as np
import pytest
from seed_statistics import band, bootstrap_interval, interquartile_mean, sample_std, thin


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 20])
def test_interquartile_mean_drops_a_quarter_of_the_values_at_either_end(count):
    values = list(np.random.default_rng(count).normal(size=count))
    kept = list(values)
    for _ in range(count // 4):
        kept.remove(min(kept))
        kept.remove(max(kept))
    assert interquartile_mean(values) == pytest.approx(sum(kept) / len(kept))


def test_interquartile_mean_ignores_an_outlier():
    assert interquartile_mean([1.0, 2.0, 3.0, 4.0]) == interquartile_mean([-1e9, 3.0, 2.0, 1e9])


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(5.0, 2.0, size=20)) for _ in range(200)]
    covered = np.mean([low <= 5.0 <= high for low, high in intervals])
    assert 0.87 <= covered <= 0.99


def test_bootstrap_interval_is_repeatable_and_holds_the_mean():
    values = [1.0, 2.0, 10.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    low, high = bootstrap_interval(values)
    assert min(values) <= low < np.mean(values) < high <= max(values)
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow.low < narrow.high < high


def test_bootstrap_interval_of_equal_values_is_that_value():
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_sample_std_divides_by_one_less():
    assert sample_std([1.0, 3.0]) == pytest.approx(2**0.5)
    assert np.isnan(sample_std([1.0]))


@pytest.mark.parametrize("length", [0, 1, 5, 100, 101, 12345])
def test_thin_keeps_both_ends_and_at_most_what_is_asked(length):
    chosen = thin(length, 100)
    assert len(chosen) == min(length, 100)
    assert length == 0 or (chosen[0], chosen[-1]) == (0, length - 1)


def test_band_interpolates_where_all_curves_have_values():
    rising = np.array([0.0, 10.0]), np.array([0.0, 10.0])
    level = np.array([2.0, 8.0]), np.array([1.0, 1.0])
    shown = band([rising, level], points=4)
    np.testing.assert_allclose(shown.x, [2, 4, 6, 8])
    np.testing.assert_allclose(shown.mean, [1.5, 2.5, 3.5, 4.5])
    np.testing.assert_allclose(shown.low, [1, 1, 1, 1])
    np.testing.assert_allclose(shown.high, [2, 4, 6, 8])
