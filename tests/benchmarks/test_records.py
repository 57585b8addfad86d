"""What is committed of runs comes back as it was, and never mixes experiments."""

import dataclasses

import numpy as np
import pytest
from grid_examples import make_run
from grids.records import digest, experiment_of, merge, read_committed, write_committed
from grids.tables import summarize


def same(one, other) -> bool:
    return one.key == other.key and all(
        np.array_equal(one.curve[name], other.curve[name], equal_nan=True) for name in one.curve
    )


def test_committed_runs_come_back_as_they_were(tmp_path):
    runs = [make_run(seed=seed, variant=v, evaluations=(1.25, np.nan)) for v in ("a", "b") for seed in (0, 1)]
    write_committed(runs, tmp_path)
    back = read_committed(tmp_path)
    for one, other in zip(runs, back, strict=True):
        assert same(one, other)
        assert dataclasses.replace(one, curve={}) == dataclasses.replace(other, curve={})
    written = (tmp_path / "runs.json").read_text()
    write_committed(back, tmp_path)
    assert (tmp_path / "runs.json").read_text() == written
    assert written.count("total_steps") == 2  # settings are there once for all seeds


def test_a_run_without_a_curve_comes_back(tmp_path):
    run = make_run(evaluations=())
    write_committed([run], tmp_path)
    (back,) = read_committed(tmp_path)
    assert same(run, back)
    assert np.isnan(back.final_training_return)
    assert [list(column) for column in back.evaluations] == [[1000], [100.0]]


def test_nothing_committed_is_no_runs(tmp_path):
    assert read_committed(tmp_path) == []


def test_the_digest_is_of_the_experiment_and_not_of_the_seed():
    one, other = ({"gamma": 0.99, "seed": s, "run_dir": f"r{s}", "hidden_sizes": (64,)} for s in (0, 1))
    assert digest(experiment_of(one)) == digest(experiment_of(other))
    assert digest(experiment_of(one)) != digest(experiment_of({**one, "gamma": 0.9}))


@pytest.mark.parametrize(("setting", "other"), [("max_kl", 0.5), ("env_kwargs", {"g": 5.0})])
def test_a_setting_that_came_after_a_run_has_its_default_there(setting, other, tmp_path):
    run = make_run()
    before = {name: value for name, value in run.config.items() if name != setting}
    write_committed([dataclasses.replace(run, config=before)], tmp_path)
    (back,) = read_committed(tmp_path)
    assert digest(back.config) == digest(run.config)
    assert digest(experiment_of({**before, setting: other})) != digest(run.config)


def test_a_new_run_replaces_its_namesake_and_drops_seeds_of_another_experiment():
    changed = {"gamma": 0.9}
    committed = [make_run(seed=0, final=1.0), make_run(seed=1), make_run(variant="espo")]
    merged, outdated = merge(committed, [make_run(seed=0, final=2.0)])
    assert [(run.variant, run.seed, run.final_return) for run in merged] == [
        ("espo", 0, 100.0),
        ("ppo", 0, 2.0),
        ("ppo", 1, 100.0),
    ]
    assert outdated == []
    merged, outdated = merge(committed, [make_run(seed=0, config=changed)])
    assert [run.key for run in outdated] == [("Hopper-v4", "ppo", 1)]
    assert [run.key for run in merged] == [("Hopper-v4", "espo", 0), ("Hopper-v4", "ppo", 0)]


def test_evaluations_end_with_the_final_one():
    steps, returns = make_run(final=7.0, evaluations=(1.0, np.nan, 3.0)).evaluations
    assert list(steps) == [100, 300, 1000]
    assert list(returns) == [1.0, 3.0, 7.0]


def test_a_summary_has_a_line_for_each_environment_and_variant():
    runs = [make_run(seed=s, variant=v, final=100.0 * s) for v in ("ppo", "sd_ppo") for s in range(3)]
    text = summarize(runs)
    assert "| Hopper-v4 | sd_ppo | 3 | 100.0 | 100.0 | 100.0 | 0.0 to 200.0 | 90.0 |" in text
    assert "- git revision: 0123456789ab\n" in text
    assert "envpool: None" not in text
    assert "| Hopper-v4 | ppo | 1 / 2 |" in text
    assert "How far an update" not in summarize([dataclasses.replace(run, diagnostics={}) for run in runs])


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_have_no_interval_or_deviation_that_is_not_there(seeds):
    text = summarize([make_run(seed=seed) for seed in range(seeds)])
    assert ("| - | 100.0 | - |" in text) == (seeds == 1)
