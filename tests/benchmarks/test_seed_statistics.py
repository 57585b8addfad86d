"""Statistics over a few seeds."""

import numpy as np
import pytest
from seed_statistics import (
    band,
    bootstrap_interval,
    interquartile_mean,
    sample_std,
    stratified_interquartile_mean,
    thin,
)


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


@pytest.mark.parametrize(("tasks", "runs"), [(6, 5), (1, 3), (2, 3), (3, 10)])
def test_tasks_with_as_many_runs_each_have_the_interquartile_mean_of_all_runs(tasks, runs):
    scores = np.random.default_rng(tasks).normal(size=(tasks, runs))
    estimate = stratified_interquartile_mean(scores.tolist())
    assert estimate.value == pytest.approx(interquartile_mean(scores.ravel()))
    assert estimate.interval.low <= estimate.value <= estimate.interval.high


def test_every_task_counts_the_same_whatever_its_number_of_runs():
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.0, 0.1, 3).tolist(), rng.normal(1.0, 0.1, 6).tolist()
    estimate, evenly = (
        stratified_interquartile_mean([few, many]),
        stratified_interquartile_mean([few * 2, many]),
    )
    assert estimate.value == pytest.approx(evenly.value, abs=0.05)
    assert stratified_interquartile_mean([few, many[:3]]).value == pytest.approx(estimate.value, abs=0.1)
    low, high = estimate.interval
    assert low < estimate.value < high


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
